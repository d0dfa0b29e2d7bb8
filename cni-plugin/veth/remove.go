package veth

import (
	"errors"
	"fmt"
	"strings"

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
// interface that is gone is a success; an interface that is no veth stays.
func RemoveInPod(netns, ifName string) error {
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
	var eth *link
	if err := pod.do(getLink(ifName, &eth)); err != nil {
		return fmt.Errorf("in the pod: %w", err)
	}
	if eth == nil || eth.kind != "veth" {
		return nil
	}
	return pod.remove(eth)
}

// Owned is a host side with an owner.
type Owned struct{ Name, Alias string }

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
			out = append(out, Owned{Name: l.name, Alias: l.alias})
		}
	}
	return out, nil
}
