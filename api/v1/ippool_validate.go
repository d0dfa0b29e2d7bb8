package v1

import (
	"errors"
	"fmt"
	"net/netip"
)

// Block prefix lengths: what Calico accepts and what holds when none is given.
const (
	minBlockSize4, defaultBlockSize4, maxBlockSize4 = 20, 26, 32
	minBlockSize6, defaultBlockSize6, maxBlockSize6 = 116, 122, 128
)

// Prefix returns the pool's range. The pool must be valid.
func (p *IPPool) Prefix() netip.Prefix { return netip.MustParsePrefix(p.Spec.CIDR) }

// BlockBits returns the prefix length of the pool's blocks, after defaulting.
// The pool must be valid.
func (p *IPPool) BlockBits() int {
	switch {
	case p.Spec.BlockSize != 0:
		return p.Spec.BlockSize
	case p.Prefix().Addr().Is4():
		return defaultBlockSize4
	default:
		return defaultBlockSize6
	}
}

// Allows reports whether the pool's addresses may be used for use.
func (p *IPPool) Allows(use IPPoolAllowedUse) bool {
	if len(p.Spec.AllowedUses) == 0 {
		return use == UseWorkload || use == UseTunnel
	}
	for _, u := range p.Spec.AllowedUses {
		if u == use {
			return true
		}
	}
	return false
}

// Validate returns everything that keeps the pool from being used, each problem
// with its field, the value and what is accepted; nil when there is nothing.
func (p *IPPool) Validate() error {
	s := p.Spec
	errs := []error{
		oneOf("spec.ipipMode", s.IPIPMode, "", EncapNever, EncapAlways, EncapCrossSubnet),
		oneOf("spec.vxlanMode", s.VXLANMode, "", EncapNever, EncapAlways, EncapCrossSubnet),
		oneOf("spec.assignmentMode", s.AssignmentMode, "", AssignAutomatic, AssignManual),
	}
	for i, u := range s.AllowedUses {
		errs = append(errs, oneOf(fmt.Sprintf("spec.allowedUses[%d]", i), u, UseWorkload, UseTunnel, UseLoadBalancer))
	}
	if s.IPIPMode.on() && s.VXLANMode.on() {
		errs = append(errs, fmt.Errorf("spec.ipipMode %s and spec.vxlanMode %s: only one encapsulation can be on", s.IPIPMode, s.VXLANMode))
	}
	cidr, err := netip.ParsePrefix(s.CIDR)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("spec.cidr %q: want a range such as 10.244.0.0/16", s.CIDR))
	case cidr != cidr.Masked():
		errs = append(errs, fmt.Errorf("spec.cidr %q: has host bits set; want %s", s.CIDR, cidr.Masked()))
	case cidr.Addr().Is4In6():
		errs = append(errs, fmt.Errorf("spec.cidr %q: IPv4 mapped into IPv6 is not accepted; write the IPv4 range", s.CIDR))
	default:
		errs = append(errs, s.validateRange(cidr))
	}
	return errors.Join(errs...)
}

// validateRange checks what depends on the family of a well-formed cidr.
func (s *IPPoolSpec) validateRange(cidr netip.Prefix) error {
	lo, def, hi := minBlockSize4, defaultBlockSize4, maxBlockSize4
	if cidr.Addr().Is6() {
		lo, def, hi = minBlockSize6, defaultBlockSize6, maxBlockSize6
	}
	size := s.BlockSize
	if size == 0 {
		size = def
	}
	var errs []error
	switch {
	case size < lo || size > hi:
		errs = append(errs, fmt.Errorf("spec.blockSize %d: want %d to %d for %s", s.BlockSize, lo, hi, cidr))
	case size < cidr.Bits():
		errs = append(errs, fmt.Errorf("spec.blockSize %d: a block must fit in the pool %s; want %d to %d", size, cidr, max(lo, cidr.Bits()), hi))
	}
	if a := cidr.Addr(); a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
		errs = append(errs, fmt.Errorf("spec.cidr %s: multicast, loopback, link-local and unspecified addresses cannot be assigned", cidr))
	}
	if cidr.Addr().Is6() && s.IPIPMode.on() {
		errs = append(errs, fmt.Errorf("spec.ipipMode %s: IPIP carries IPv4 only; want Never for %s", s.IPIPMode, cidr))
	}
	return errors.Join(errs...)
}

func (m EncapMode) on() bool { return m != "" && m != EncapNever }

// oneOf returns an error unless value is one of accepted.
func oneOf[T ~string](field string, value T, accepted ...T) error {
	var names string
	for _, a := range accepted {
		if value == a {
			return nil
		}
		if a == "" {
			continue
		}
		if names != "" {
			names += ", "
		}
		names += string(a)
	}
	return fmt.Errorf("%s %q: want one of %s", field, value, names)
}
