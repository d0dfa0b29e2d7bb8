package bgpconfig

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/selector"
)

// Bounds of what BGP carries.
const (
	// maxRestart is what the Restart Time of 12 bits holds, RFC 4724 §3, in seconds.
	maxRestart = 4095
	// maxKeepalive is a third of the Hold Time of 16 bits, RFC 4271 §4.2, in seconds.
	maxKeepalive = 65535 / 3
)

// SecretKey names one key of a Secret in the agent's namespace.
type SecretKey struct{ Name, Key string }

// Peer is a BGPPeer whose nodes and password are not looked up yet.
type Peer struct {
	config bgp.PeerConfig
	// node is the one node that has the peering; else selected are those.
	node     string
	selected *selector.Selector
	peers    *selector.Selector
	// Password is where the password is; nil: there is none.
	Password *SecretKey
	gateway  netip.Addr
}

// Node is what a selector of nodes looks at.
type Node struct {
	Name   string
	Labels map[string]string
}

// Password is a password as far as it could be read.
type Password struct {
	Value bgp.Secret
	Held  string // why it could not, and what to do; empty: it is Value
}

// Name is the BGPPeer's.
func (p Peer) Name() string { return p.config.Name }

// Gateway leads to the router, which is not on link; invalid where no BGPPeer names one.
func (p Peer) Gateway() netip.Addr { return p.gateway }

// For is the peering in a cluster of those nodes, with what is known of its password.
func (p Peer) For(nodes []Node, passwords func(SecretKey) Password) bgp.PeerConfig {
	c := p.config
	switch {
	case p.node != "":
		c.Nodes = map[string]bool{p.node: true}
	case p.selected != nil:
		c.Nodes = selectedBy(*p.selected, nodes)
	default:
		c.Everywhere = true
	}
	if p.peers != nil {
		c.PeerNodes = selectedBy(*p.peers, nodes)
	}
	if p.Password != nil {
		known := passwords(*p.Password)
		c.Password, c.Held = known.Value, known.Held
	}
	return c
}

func selectedBy(s selector.Selector, nodes []Node) map[string]bool {
	names := map[string]bool{}
	for _, n := range nodes {
		if s.Matches(n.Labels) {
			names[n.Name] = true
		}
	}
	return names
}

// ParsePeer reads a BGPPeer, or says everything that is wrong with it.
func ParsePeer(o *apiv1.BGPPeer) (Peer, error) {
	s := o.Spec
	p := Peer{node: s.Node, config: bgp.PeerConfig{Name: o.Name, Filters: s.Filters, AnySource: s.SourceAddress == "None", PeerBack: true}}
	c := &p.config
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	selecting := func(field, text string) *selector.Selector {
		if text == "" {
			return nil
		}
		parsed, err := selector.Parse(text)
		if err != nil {
			problem("spec.%s: %w", field, err)
		}
		return &parsed
	}
	p.selected, p.peers = selecting("nodeSelector", s.NodeSelector), selecting("peerSelector", s.PeerSelector)
	if p.node != "" && p.selected != nil {
		problem("spec.node and spec.nodeSelector exclude each other: remove one of them")
	}
	switch {
	case s.LocalWorkloadSelector != "":
		problem("spec.localWorkloadSelector: this version of Manx does not peer with pods; remove the BGPPeer, or name a router with peerIP")
	case s.PeerIP != "" && p.peers != nil:
		problem("spec.peerIP and spec.peerSelector exclude each other: remove one of them")
	case s.PeerIP != "":
		router, err := parseRouter(s.PeerIP, s.ASNumber)
		if err != nil {
			errs = append(errs, err)
		}
		c.Router = router
	case p.peers == nil:
		problem("it names no peer: set spec.peerIP and spec.asNumber for a router, or spec.peerSelector for nodes")
	}
	if s.ReachableBy != "" {
		gateway, err := parseGateway(s.ReachableBy, c.Router.Addr)
		if err != nil {
			errs = append(errs, err)
		}
		p.gateway = gateway
	}
	if s.LocalASNumber != nil {
		if c.LocalAS = uint32(*s.LocalASNumber); c.LocalAS == 0 {
			problem("spec.localASNumber 0 is reserved (RFC 7607): want %s", apiv1.ASNumberForms)
		}
	}
	if r := s.ReversePeering; r != nil {
		errs = append(errs, oneOf("spec.reversePeering", *r, "", "Auto", "Manual"))
		c.PeerBack = *r != "Manual"
	}
	errs = append(errs, oneOf("spec.sourceAddress", s.SourceAddress, "", "UseNodeIP", "None"))

	mode, err := nextHopMode(s)
	errs = append(errs, err)
	c.NextHop = mode
	c.Restart, err = seconds("spec.maxRestartTime", s.MaxRestartTime, 1, maxRestart)
	errs = append(errs, err)
	c.Keepalive, err = seconds("spec.keepaliveTime", s.KeepaliveTime, 1, maxKeepalive)
	errs = append(errs, err)
	if n := s.NumAllowedLocalASNumbers; n != nil {
		if *n < 0 || *n > math.MaxUint8 {
			problem("spec.numAllowedLocalASNumbers %d: want 0 to %d", *n, math.MaxUint8)
		}
		c.AllowOwnAS = uint8(*n)
	}
	if s.TTLSecurity != nil {
		c.TTLSecurity = *s.TTLSecurity
	}
	if s.Password != nil && s.Password.SecretKeyRef != nil {
		p.Password = &SecretKey{s.Password.SecretKeyRef.Name, s.Password.SecretKeyRef.Key}
		if p.Password.Name == "" || p.Password.Key == "" {
			problem("spec.password.secretKeyRef: name and key are both needed")
		}
	}
	return p, errors.Join(errs...)
}

// parseRouter reads peerIP: 10.0.0.1, 10.0.0.1:179, fd00::1, [fd00::1]:179.
func parseRouter(text string, as *apiv1.ASNumber) (r bgp.Router, err error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		host, port, found := cutPort(text)
		n, errPort := strconv.ParseUint(port, 10, 16)
		addr, err = netip.ParseAddr(host)
		if err != nil || !found || errPort != nil || n == 0 {
			return r, fmt.Errorf("spec.peerIP %q: want an address such as 10.0.0.1, 10.0.0.1:179, fd00::1 or [fd00::1]:179", text)
		}
		r.Port = uint16(n)
	}
	switch {
	case addr.Zone() != "" || addr.IsLinkLocalUnicast() && addr.Is6():
		return r, fmt.Errorf("spec.peerIP %q: this version of Manx peers with no link-local address; name a global one of the router", text)
	case addr.Is4In6() || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || reserved(addr):
		return r, fmt.Errorf("spec.peerIP %q is no address that a router can have", text)
	case as == nil:
		return r, fmt.Errorf("spec.asNumber is missing: the AS of the router %s", addr)
	case *as == 0:
		return r, fmt.Errorf("spec.asNumber 0 is reserved (RFC 7607): want the AS of the router %s, %s", addr, apiv1.ASNumberForms)
	}
	r.Addr, r.AS = addr, uint32(*as)
	return r, nil
}

// parseGateway reads reachableBy, the gateway before a router; without one at that address
// there is nothing to reach.
func parseGateway(text string, router netip.Addr) (netip.Addr, error) {
	gateway, err := netip.ParseAddr(text)
	switch {
	case err != nil || gateway.Zone() != "" || gateway.Is4In6() || gateway.IsUnspecified() || gateway.IsLoopback() || gateway.IsMulticast():
		return netip.Addr{}, fmt.Errorf("spec.reachableBy %q: want the address of a router, such as 10.0.0.1 or fe80::1", excerpt.Value(text))
	case !router.IsValid():
		return netip.Addr{}, errors.New("spec.reachableBy is the way to spec.peerIP, which is missing or wrong: set it, or remove reachableBy")
	case gateway == router:
		return netip.Addr{}, fmt.Errorf("spec.reachableBy %s is the peer itself: name the router before it, or remove reachableBy", gateway)
	case gateway.Is4() != router.Is4():
		return netip.Addr{}, fmt.Errorf("spec.reachableBy %s and spec.peerIP %s are not of one IP family", gateway, router)
	}
	return gateway, nil
}

// reserved reports whether an IPv4 address is in "this network" or among the reserved ones,
// RFC 1122 §3.2.1.3 and RFC 1112 §4, the limited broadcast included.
func reserved(a netip.Addr) bool {
	return a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240)
}

// cutPort splits host:port and [host]:port.
func cutPort(text string) (host, port string, found bool) {
	if rest, ok := strings.CutPrefix(text, "["); ok {
		return strings.Cut(rest, "]:")
	}
	return strings.Cut(text, ":")
}

func nextHopMode(s apiv1.BGPPeerSpec) (bgp.NextHopMode, error) {
	if s.NextHopMode == nil || *s.NextHopMode == "" || *s.NextHopMode == "Auto" {
		if s.KeepOriginalNextHop {
			return bgp.NextHopKeep, nil
		}
		return bgp.NextHopAuto, nil
	}
	switch *s.NextHopMode {
	case "Self":
		return bgp.NextHopSelf, nil
	case "Keep":
		return bgp.NextHopKeep, nil
	}
	return 0, oneOf("spec.nextHopMode", *s.NextHopMode, "Auto", "Self", "Keep")
}

// seconds reads a time that BGP carries in whole seconds; 0 when it is not set.
func seconds(field string, d *metav1.Duration, from, to int64) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if d.Duration%time.Second != 0 || d.Duration < time.Duration(from)*time.Second || d.Duration > time.Duration(to)*time.Second {
		return 0, fmt.Errorf("%s %s: want whole seconds, %ds to %ds", field, d.Duration, from, to)
	}
	return d.Duration, nil
}

// oneOf refuses a value that is none of those; an empty one among them is not named.
func oneOf(field, value string, accepted ...string) error {
	var names []string
	for _, a := range accepted {
		if value == a {
			return nil
		}
		if a != "" {
			names = append(names, a)
		}
	}
	return fmt.Errorf("%s %q: want %s", field, value, strings.Join(names, ", "))
}
