// Package pool chooses the pools that a request may draw from and the order in
// which their blocks are tried. It is pure.
package pool

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"slices"
	"strings"

	v1 "github.com/manx-cni/manx/api/v1"
)

// Request is what the choice depends on.
type Request struct {
	IPv6 bool
	Use  v1.IPPoolAllowedUse
}

// Refusal is a pool that was not chosen, and why.
type Refusal struct{ Pool, Reason string }

// Select returns the pools that the request may draw from, in the order they are
// tried (by name), and why the others of its family are not among them.
func Select(pools []*v1.IPPool, req Request) (chosen []*v1.IPPool, refused []Refusal) {
	for _, p := range pools {
		if p.Validate() == nil && p.Prefix().Addr().Is6() != req.IPv6 {
			continue
		}
		if why := refusal(p, req.Use); why != "" {
			refused = append(refused, Refusal{p.Name, why})
			continue
		}
		chosen = append(chosen, p)
	}
	slices.SortFunc(chosen, func(a, b *v1.IPPool) int { return cmp.Compare(a.Name, b.Name) })
	return chosen, refused
}

func refusal(p *v1.IPPool, use v1.IPPoolAllowedUse) string {
	switch {
	case p.Validate() != nil:
		return "it is invalid: " + strings.ReplaceAll(p.Validate().Error(), "\n", "; ")
	case p.Spec.Disabled:
		return "it is disabled"
	case !p.Allows(use):
		return fmt.Sprintf("its allowedUses are %v", p.Spec.AllowedUses)
	case p.Spec.AssignmentMode == v1.AssignManual:
		return "its assignmentMode is Manual"
	case !selectsAll(p.Spec.NodeSelector):
		return fmt.Sprintf("its nodeSelector is %q; this version knows all() only", p.Spec.NodeSelector)
	case !selectsAll(p.Spec.NamespaceSelector):
		return fmt.Sprintf("its namespaceSelector is %q; this version knows all() only", p.Spec.NamespaceSelector)
	}
	return ""
}

func selectsAll(selector string) bool {
	s := strings.TrimSpace(selector)
	return s == "" || s == "all()"
}

// BlockCount returns how many blocks a valid pool has; very large pools count as
// 2^62.
func BlockCount(p *v1.IPPool) uint64 {
	return 1 << min(62, p.BlockBits()-p.Prefix().Bits())
}

// maxTried bounds the walk over a pool: nobody looks at a /48's blocks one by one.
const maxTried = 1 << 16

// Blocks yields the pool's blocks from the one that host starts with, wrapping
// round. Every host has a start of its own, stable over restarts (FNV-1a of its
// name), so that hosts that claim at the same time rarely want the same block.
func Blocks(p *v1.IPPool, host string) iter.Seq[netip.Prefix] {
	count := BlockCount(p)
	h := fnv.New32a()
	_, _ = h.Write([]byte(host))
	start := uint64(h.Sum32()) % count
	base, bits := p.Prefix().Masked().Addr(), p.BlockBits()
	return func(yield func(netip.Prefix) bool) {
		for i := range min(count, maxTried) {
			if !yield(netip.PrefixFrom(add(base, bits, (start+i)%count), bits)) {
				return
			}
		}
	}
}

// add returns base + n blocks of the given length.
func add(base netip.Addr, bits int, n uint64) netip.Addr {
	b := base.AsSlice()
	shift := base.BitLen() - bits
	for i := len(b) - 1 - shift/8; i >= 0 && n > 0; i-- {
		var step uint64
		if i == len(b)-1-shift/8 {
			low := shift % 8
			step = uint64(b[i]) + (n<<low)&0xff
			n >>= 8 - low
		} else {
			step = uint64(b[i]) + n&0xff
			n >>= 8
		}
		b[i] = byte(step)
		n += step >> 8
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}
