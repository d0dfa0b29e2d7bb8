package state

import (
	"net/netip"
	"slices"
	"strings"
	"unique"
)

// Gateways are the next hops of a route that has several, each once, sorted. It is
// comparable, and as large as a pointer: most routes have none. The zero value is none.
type Gateways struct{ list unique.Handle[string] } // addresses as text, a space between

// GatewaysOf are several addresses; of fewer than two it is none.
func GatewaysOf(addrs []netip.Addr) Gateways {
	sorted := slices.Compact(slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare))
	if len(sorted) < 2 {
		return Gateways{}
	}
	text := make([]string, len(sorted))
	for i, a := range sorted {
		text[i] = a.String()
	}
	return Gateways{unique.Make(strings.Join(text, " "))}
}

// All are the addresses, sorted; nil for none.
func (g Gateways) All() (addrs []netip.Addr) {
	if !g.Several() {
		return nil
	}
	for text := range strings.FieldsSeq(g.list.Value()) {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// Several reports whether there are any, which is at least two.
func (g Gateways) Several() bool { return g != Gateways{} }
