package autodetect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/manx-cni/manx/internal/family"
)

// candidate is one address of one interface, or an interface without any.
type candidate struct {
	iface string
	up    bool
	addr  netip.Prefix
	unfit string // what its Interface says of the address
	why   string // it was refused; empty: it qualifies
}

func (c candidate) String() string {
	if !c.addr.IsValid() {
		return c.iface
	}
	return c.iface + " " + c.addr.String()
}

// candidates lists the interfaces' addresses of the family in the order of the
// walk, highest interface index first, with a verdict for each.
func (r Request) candidates(iface func(Interface) string, addr func(netip.Prefix) string) []candidate {
	ifaces := slices.Clone(r.Interfaces)
	slices.SortStableFunc(ifaces, func(a, b Interface) int { return b.Index - a.Index })
	var out []candidate
	for _, i := range ifaces {
		verdict := reject(!i.Up, "interface is down")
		if iface != nil && verdict == "" {
			verdict = iface(i)
		}
		n := len(out)
		for _, p := range i.Addrs {
			if !r.Family.Has(p.Addr()) || r.Family == family.IPv6 && !p.Addr().IsGlobalUnicast() && excluded.MatchString(i.Name) {
				continue // every pod's interface has a link-local address
			}
			c := candidate{iface: i.Name, up: i.Up, addr: p, unfit: i.Unfit[p.Addr()], why: verdict}
			if c.why == "" {
				c.why = reject(!p.Addr().IsGlobalUnicast(), "not a global unicast address")
			}
			if c.why == "" {
				c.why = c.unfit
			}
			if c.why == "" && addr != nil {
				c.why = addr(p)
			}
			out = append(out, c)
		}
		yield(out[n:], i)
		if len(out) == n && !excluded.MatchString(i.Name) { // pods' interfaces have no address and are legion
			if verdict == "" {
				verdict = fmt.Sprintf("no %s address", r.Family)
			}
			out = append(out, candidate{iface: i.Name, up: i.Up, why: verdict})
		}
	}
	return out
}

// yield refuses the addresses of an interface, among those that qualify, that come and
// go where it has others. The order in which the kernel lists them says nothing: a
// floating address is mostly the newest, and comes first in IPv6.
func yield(of []candidate, i Interface) {
	lesser := func(c candidate) string {
		if c.addr.IsSingleIP() {
			return "a host address, as floating ones are, where the interface has one with a subnet"
		}
		return i.Lesser[c.addr.Addr()]
	}
	if !slices.ContainsFunc(of, func(c candidate) bool { return c.why == "" && lesser(c) == "" }) {
		return
	}
	for j := range of {
		if of[j].why == "" {
			of[j].why = lesser(of[j])
		}
	}
}

// listMax bounds how many candidates a message lists.
const listMax = 12

func list(cands []candidate) string {
	var items []string
	for i, c := range cands {
		if i == listMax {
			items = append(items, fmt.Sprintf("and %d more", len(cands)-i))
			break
		}
		items = append(items, fmt.Sprintf("%s (%s)", c, c.why))
	}
	return strings.Join(items, ", ")
}

// choose explains why cands[i] won.
func (r Request) choose(cands []candidate, i int, why string) Result {
	won := cands[i]
	var lost []candidate
	for j, c := range cands {
		if j == i {
			continue
		}
		if c.why == "" {
			c.why = "qualifies too, comes after " + won.iface
			if j < i {
				c.why = "qualifies too, yields"
			}
		}
		lost = append(lost, c)
	}
	reason := fmt.Sprintf("%s: %s", r.Method, why)
	if len(lost) > 0 {
		reason += "; not taken: " + list(lost)
	}
	return Result{Addr: won.addr, Interface: won.iface, Reason: reason}
}

// fail explains why nothing was chosen and what the user can do.
func (r Request) fail(why string, cands []candidate) error {
	seen := "none"
	if len(cands) > 0 {
		for i := range cands {
			if cands[i].why == "" {
				cands[i].why = "has an address"
			}
		}
		seen = list(cands)
	}
	return fmt.Errorf("%s=%q: %s; interfaces seen: %s; want %s, %s",
		methodVariable(r.Family), r.Method.String(), why, seen, MethodForms, wayOut(r.Family))
}

// owner finds the interface that has address a: of several the one that has it with a
// subnet, else the first.
func owner(ifaces []Interface, a netip.Addr) (found candidate, ok bool) {
	for _, i := range ifaces {
		for _, p := range i.Addrs {
			if p.Addr() == a && (!ok || found.addr.IsSingleIP() && !p.IsSingleIP()) {
				found, ok = candidate{iface: i.Name, up: i.Up, addr: p, unfit: i.Unfit[a]}, true
			}
		}
	}
	return found, ok
}
