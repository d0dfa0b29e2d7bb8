package veth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// remove deletes an interface by index; one that is gone already is a success.
func (s *socket) remove(l *link) error {
	return s.do(delLink(l.index, l.name).tolerating(unix.ENODEV))
}

// RemoveOwned deletes every host side whose alias is the given one, whatever its
// name, and with it the pod's side.
func RemoveOwned(alias string) error {
	s, err := openSocket()
	if err != nil {
		return err
	}
	defer s.close()
	links, err := s.listLinks()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if l.alias == alias && l.kind == "veth" {
			errs = append(errs, s.remove(l))
		}
	}
	return errors.Join(errs...)
}

// RemoveInPod deletes the veth of that name in a pod's namespace: what is left of
// an ADD that was killed before it marked the host side. A namespace or an
// interface that is gone is a success; an interface that is no veth stays, and so does
// one whose host side has another owner than alias.
func RemoveInPod(netns, ifName string, alias string) error {
	if _, owner, err := HostSide(netns, ifName); err != nil || owner != "" && owner != alias {
		return err
	}
	return inPod(netns, func(pod *socket) error {
		var eth *link
		if err := pod.do(getLink(ifName, &eth)); err != nil || eth == nil || eth.kind != "veth" {
			return err
		}
		return pod.remove(eth)
	})
}

// inPod calls do with a socket in a pod's namespace, unless that is gone.
func inPod(netns string, do func(pod *socket) error) error {
	ns, err := openNamespace(netns)
	if errors.Is(err, ErrNamespaceGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ns.close()
	var pod *socket
	if err := ns.enter(func() (err error) { pod, err = openSocket(); return err }); err != nil {
		return err
	}
	defer pod.close()
	if err := do(pod); err != nil {
		return fmt.Errorf("in the pod: %w", err)
	}
	return nil
}

// HostSide finds the node's end of a veth by the pod's, with its owner: empty when
// there is no such veth with an end here.
func HostSide(netns, ifName string) (name, alias string, err error) {
	var eth *link
	err = inPod(netns, func(pod *socket) error { return pod.do(getLink(ifName, &eth)) })
	if err != nil || eth == nil || eth.kind != "veth" {
		return "", "", err
	}
	host, err := openSocket()
	if err != nil {
		return "", "", err
	}
	defer host.close()
	l, err := host.linkAt(eth.peer)
	if err != nil || l == nil || l.kind != "veth" || l.peer != eth.index || !l.hasPeer {
		return "", "", err
	}
	// The indices fit, as those of many pods do: the namespace decides.
	id, ok, err := host.nsid(netns)
	if err != nil || !ok || id != l.peerNS {
		return "", "", err
	}
	return l.name, l.alias, nil
}

// nsid asks which number the socket's namespace has for another one; ok is false when
// it has none.
func (s *socket) nsid(netns string) (id int32, ok bool, err error) {
	ns, err := openNamespace(netns)
	if errors.Is(err, ErrNamespaceGone) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer ns.close()
	m := newMessage("read the number of "+netns, unix.RTM_GETNSID, 0)
	m.req.AddData(&nl.RtGenMsg{})
	m.attr(unix.NETNSA_FD, nl.Uint32Attr(uint32(ns.fd)))
	m.answer = unix.RTM_NEWNSID
	m.into = func(b []byte) error {
		if len(b) < 4 {
			return fmt.Errorf("namespace message of %d bytes", len(b))
		}
		for typ, value := range attrs(b[4:]) {
			if typ == unix.NETNSA_NSID {
				id = int32(u32(value))
				ok = id != unix.NETNSA_NSID_NOT_ASSIGNED
			}
		}
		return nil
	}
	err = s.do(m)
	return id, ok, err
}

// PodIfName is the name that the pod's end of a host side has; empty when that cannot
// be known.
func PodIfName(o Owned) (string, error) {
	s, err := openSocket()
	if err != nil {
		return "", err
	}
	defer s.close()
	l, err := s.linkAt(o.index)
	if err != nil || l == nil || l.alias != o.Alias {
		return "", err
	}
	return s.peerName(l)
}

// linkAt reads an interface by its index; nil when there is none.
func (s *socket) linkAt(index int) (*link, error) {
	var l *link
	m := linkMessage(fmt.Sprintf("read interface %d", index), unix.RTM_GETLINK, 0, index).
		attr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)).
		tolerating(unix.ENODEV)
	m.answer = unix.RTM_NEWLINK
	m.into = func(b []byte) (err error) { l, err = parseLink(b); return err }
	err := s.do(m)
	return l, err
}

// peerName reads the other end's name in its own namespace, without going there.
func (s *socket) peerName(l *link) (string, error) {
	if !l.hasPeer {
		return "", nil
	}
	var peer *link
	m := linkMessage("read the other end of "+l.name, unix.RTM_GETLINK, 0, l.peer).
		attr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(l.peerNS))).
		attr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)).
		tolerating(unix.ENODEV)
	m.answer = unix.RTM_NEWLINK
	m.into = func(b []byte) (err error) { peer, err = parseLink(b); return err }
	if err := s.do(m); err != nil || peer == nil {
		return "", err
	}
	return peer.name, nil
}

// Owned is a host side with an owner.
type Owned struct {
	Name, Alias string
	index       int
}

// ListOwned returns the host sides whose alias starts with the prefix.
func ListOwned(prefix string) ([]Owned, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	defer s.close()
	links, err := s.listLinks()
	if err != nil {
		return nil, err
	}
	var out []Owned
	for _, l := range links {
		if l.kind == "veth" && strings.HasPrefix(l.alias, prefix) {
			out = append(out, Owned{Name: l.name, Alias: l.alias, index: l.index})
		}
	}
	return out, nil
}
