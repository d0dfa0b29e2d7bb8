package state

import "net/netip"

// Masquerade says whose traffic leaves under the node's address. Both lists are
// sorted and free of overlap.
type Masquerade struct {
	// Sources are the pools with natOutgoing that are enabled.
	Sources []netip.Prefix
	// Inside are all pools, disabled ones too: traffic to them keeps its source.
	// A disabled pool is the documented way to exempt an outside network.
	Inside []netip.Prefix
}
