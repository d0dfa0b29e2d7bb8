package autodetect

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/manx-cni/manx/internal/family"
)

// Interface is a network interface with its addresses, IPv4 and IPv6, each with
// the prefix length that the kernel has for it.
type Interface struct {
	Name  string
	Index int
	Up    bool
	Addrs []netip.Prefix
	// Unfit says of addresses among Addrs why they are not to be detected: they
	// are valid now and may not be tomorrow. Only IPv6 has such.
	Unfit map[netip.Addr]string
	// Lesser says of IPv4 addresses among Addrs why they are detected only when
	// the interface has no other.
	Lesser map[netip.Addr]string
}

// Request is everything that the choice depends on.
type Request struct {
	Family family.Family
	IP     Address // the variable IP; of IPv6: IP6
	Method Method  // the variable IP_AUTODETECTION_METHOD; of IPv6: IP6_AUTODETECTION_METHOD
	// Stored is the annotation projectcalico.org/IPv4Address or IPv6Address, zero
	// when absent: the address in use. It stays as long as the method accepts it,
	// at a start as well as while the agent runs: neither an interface that
	// appears nor the order in which the kernel lists addresses moves a node.
	Stored      netip.Prefix
	InternalIPs []netip.Addr // of the Node's status
	Interfaces  []Interface
	// Reach returns the source address that the kernel uses towards a
	// destination; only can-reach calls it.
	Reach func(ctx context.Context, destination string) (netip.Addr, error)
}

// Result is the chosen address.
type Result struct {
	// Addr carries the prefix length of the interface's subnet, by which
	// CrossSubnet tells who is a neighbour. It is zero only for IP=none without
	// a stored address, and for IP6 empty or none.
	Addr      netip.Prefix
	Interface string // that owns the address; "" when none on this host does
	Reason    string // why this one, and what else was there
}

// Resolve chooses the node's address. It is pure apart from Request.Reach.
func Resolve(ctx context.Context, r Request) (Result, error) {
	if r.Family == family.IPv6 && !r.IP.Wanted() {
		return Result{Reason: fmt.Sprintf("IP6=%q: a node without IPv6", r.IP)}, nil
	}
	switch r.IP.kind {
	case explicit:
		return r.given(), nil
	case none:
		if r.Stored.IsValid() {
			return r.kept("IP=none: kept the address stored on the Node"), nil
		}
		return Result{Reason: "IP=none and no address stored on the Node"}, nil
	case useStored:
		if r.Stored.IsValid() && !r.outdated() {
			return r.kept("kept the address stored on the Node, since IP is empty"), nil
		}
	}
	res, err := r.detect(ctx)
	if err == nil || !r.Stored.IsValid() {
		return res, err
	}
	// The address was right once. While this host still owns it, going on is
	// better than taking the node's pods off the network.
	if _, ok := owner(r.Interfaces, r.Stored.Addr()); ok {
		return r.kept(fmt.Sprintf("kept the address stored on the Node, since autodetection failed: %v", err)), nil
	}
	return Result{}, fmt.Errorf("%w; the address stored on the Node, %s, is on no interface of this host either", err, r.Stored)
}

// outdated reports that the kernel and the kubelet agree on another address than the
// stored one: the machine was renumbered, or has the name of another. A stored address
// that no interface has may be meant (the node is behind NAT), as long as the kubelet says
// nothing else.
func (r Request) outdated() bool {
	if _, here := owner(r.Interfaces, r.Stored.Addr()); here {
		return false
	}
	return slices.ContainsFunc(r.InternalIPs, func(a netip.Addr) bool {
		o, ok := owner(r.Interfaces, a)
		return ok && o.up && o.unfit == "" && r.Family.Has(a) && a.IsGlobalUnicast()
	})
}

// given answers for an explicit IP.
func (r Request) given() Result {
	res := Result{Addr: r.IP.prefix, Reason: fmt.Sprintf("given: %s=%s", Variable(r.Family), r.IP)}
	o, ok := owner(r.Interfaces, r.IP.prefix.Addr())
	switch {
	case !ok:
		res.Reason += "; no interface of this host owns it, other nodes may not reach it"
	case r.IP.bare:
		res.Addr, res.Interface = o.addr, o.iface
		res.Reason += fmt.Sprintf(", prefix length from %s", o.iface)
	default:
		res.Interface = o.iface
	}
	return res
}

// kept answers with the stored address.
func (r Request) kept(why string) Result {
	res := Result{Addr: r.Stored, Reason: why}
	if o, ok := owner(r.Interfaces, r.Stored.Addr()); ok {
		res.Interface = o.iface
	} else {
		res.Reason += "; no interface of this host owns it, other nodes may not reach it"
	}
	return res
}

func (r Request) detect(ctx context.Context) (Result, error) {
	switch r.Method.kind {
	case canReach:
		return r.reach(ctx)
	case internalIP:
		return r.internalIP()
	case byInterface:
		return r.pick(func(i Interface) string {
			return reject(!matchesAny(r.Method, i.Name), "name matches none of the regular expressions")
		}, nil)
	case skipInterface:
		return r.pick(func(i Interface) string {
			if why := byName(i); why != "" {
				return why
			}
			return reject(matchesAny(r.Method, i.Name), "name matches skip-interface")
		}, nil)
	case byCIDR:
		return r.pick(nil, func(p netip.Prefix) string {
			in := slices.ContainsFunc(r.Method.cidrs, func(c netip.Prefix) bool { return c.Contains(p.Addr()) })
			return reject(!in, "in none of the CIDRs")
		})
	}
	return r.firstFound()
}

// byName refuses the names of bridges and tunnels.
func byName(i Interface) string {
	return reject(excluded.MatchString(i.Name), "name of a bridge, tunnel or pod interface")
}

func reject(cond bool, why string) string {
	if cond {
		return why
	}
	return ""
}

func matchesAny(m Method, name string) bool {
	for _, re := range m.names {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

// firstFound prefers the Node's InternalIP, wherever it is: kubelets run with
// it on bridges (br-ex) and loopbacks too. Otherwise it is Calico's walk.
func (r Request) firstFound() (Result, error) {
	cands := r.candidates(byName, nil)
	isInternal := func(c candidate) bool {
		return c.addr.IsValid() && slices.Contains(r.InternalIPs, c.addr.Addr()) && c.up && c.addr.Addr().IsGlobalUnicast() && c.unfit == ""
	}
	i := slices.IndexFunc(cands, func(c candidate) bool { return c.why == "" && isInternal(c) })
	if i < 0 {
		i = slices.IndexFunc(cands, isInternal)
	}
	if i >= 0 {
		return r.choose(cands, i, "it is the Node's InternalIP"), nil
	}
	return r.pick(byName, nil)
}

// pick walks the interfaces from the highest index down, as Calico does, and
// takes the first address that nobody refuses.
func (r Request) pick(iface func(Interface) string, addr func(netip.Prefix) string) (Result, error) {
	cands := r.candidates(iface, addr)
	if r.Stored.IsValid() {
		i := slices.IndexFunc(cands, func(c candidate) bool { return c.why == "" && c.addr == r.Stored })
		if i >= 0 {
			return r.choose(cands, i, "it is the address in use and still qualifies"), nil
		}
	}
	i := slices.IndexFunc(cands, func(c candidate) bool { return c.why == "" })
	if i < 0 {
		return Result{}, r.fail("no address qualifies", cands)
	}
	return r.choose(cands, i, "first that qualifies"), nil
}

func (r Request) reach(ctx context.Context) (Result, error) {
	src, err := r.Reach(ctx, r.Method.reaches)
	if err != nil {
		return Result{}, r.fail(fmt.Sprintf("find the source address towards %s: %v", r.Method.reaches, err), r.candidates(nil, nil))
	}
	if !src.IsGlobalUnicast() {
		return Result{}, r.fail(fmt.Sprintf("the source address towards %s is %s, which other nodes cannot reach", r.Method.reaches, src),
			r.candidates(nil, nil))
	}
	o, ok := owner(r.Interfaces, src)
	if !ok {
		return Result{}, r.fail(fmt.Sprintf("the source address towards %s is %s, which no interface has", r.Method.reaches, src),
			r.candidates(nil, nil))
	}
	if o.unfit != "" {
		return Result{}, r.fail(fmt.Sprintf("the source address towards %s is %s of %s: %s", r.Method.reaches, src, o.iface, o.unfit),
			r.candidates(nil, nil))
	}
	return Result{Addr: o.addr, Interface: o.iface,
		Reason: fmt.Sprintf("%s: the kernel's source address towards %s, owned by %s", r.Method, r.Method.reaches, o.iface)}, nil
}

func (r Request) internalIP() (Result, error) {
	i := slices.IndexFunc(r.InternalIPs, r.Family.Has)
	if i < 0 {
		return Result{}, r.fail(fmt.Sprintf("the Node has no %s InternalIP in its status; set the kubelet's --node-ip", r.Family),
			r.candidates(nil, nil))
	}
	a := r.InternalIPs[i]
	if o, ok := owner(r.Interfaces, a); ok {
		return Result{Addr: o.addr, Interface: o.iface, Reason: fmt.Sprintf("%s: owned by %s", r.Method, o.iface)}, nil
	}
	return Result{Addr: netip.PrefixFrom(a, a.BitLen()),
		Reason: fmt.Sprintf("%s: no interface of this host owns it, other nodes may not reach it", r.Method)}, nil
}
