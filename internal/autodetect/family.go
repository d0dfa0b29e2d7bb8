package autodetect

import "github.com/manx-cni/manx/internal/family"

// Variable is the variable that gives the node's address of a family.
func Variable(f family.Family) string {
	if f == family.IPv6 {
		return "IP6"
	}
	return "IP"
}

// methodVariable is the variable that says how to detect it.
func methodVariable(f family.Family) string { return Variable(f) + "_AUTODETECTION_METHOD" }

// wayOut completes an error of the detection: what to set instead.
func wayOut(f family.Family) string {
	if f == family.IPv6 {
		return "or set IP6 to this node's IPv6 address, or to none for a node without IPv6"
	}
	return "or set IP to this node's address"
}
