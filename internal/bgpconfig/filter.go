package bgpconfig

import (
	"errors"
	"fmt"
	"net/netip"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/bgp"
)

// maxLocalPref less a kernel metric is the LOCAL_PREF that stands for it, as Calico counts
// since v3.32: the lower the metric, the better the path.
const maxLocalPref = 1<<31 - 1

// ParseFilter reads a BGPFilter, or says everything that is wrong with it.
func ParseFilter(o *apiv1.BGPFilter) (f bgp.Filter, err error) {
	var errs []error
	for _, list := range []struct {
		field  string
		rules  []apiv1.BGPFilterRule
		all    netip.Prefix
		to     *[]bgp.FilterRule
		export bool
	}{
		{"exportV4", o.Spec.ExportV4, netip.PrefixFrom(netip.IPv4Unspecified(), 0), &f.Export, true},
		{"exportV6", o.Spec.ExportV6, netip.PrefixFrom(netip.IPv6Unspecified(), 0), &f.Export, true},
		{"importV4", o.Spec.ImportV4, netip.PrefixFrom(netip.IPv4Unspecified(), 0), &f.Import, false},
		{"importV6", o.Spec.ImportV6, netip.PrefixFrom(netip.IPv6Unspecified(), 0), &f.Import, false},
	} {
		for i, r := range list.rules {
			rule, err := parseRule(r, list.all, list.export)
			if err != nil {
				errs = append(errs, fmt.Errorf("spec.%s[%d]: %w", list.field, i, err))
			}
			*list.to = append(*list.to, rule)
		}
	}
	return f, errors.Join(errs...)
}

// parseRule reads a rule for the family of all.
func parseRule(r apiv1.BGPFilterRule, all netip.Prefix, export bool) (rule bgp.FilterRule, err error) {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	st := bgp.Statement{Prefix: all, MaxBits: all.Addr().BitLen()}
	if err := matchPrefix(&st, r); err != nil {
		errs = append(errs, err)
	}
	switch r.Source {
	case "":
	case "RemotePeers":
		st.Learned = export // what comes in is from remote peers always
	default:
		errs = append(errs, oneOf("source", r.Source, "RemotePeers"))
	}
	switch r.PeerType {
	case "":
	case "eBGP":
		rule.PeerType = bgp.ExternalPeer
	case "iBGP":
		rule.PeerType = bgp.InternalPeer
	default:
		errs = append(errs, oneOf("peerType", r.PeerType, "eBGP", "iBGP"))
	}
	if r.Interface != "" {
		problem("interface %q: Manx announces ranges and addresses, not the routes of interfaces; match their cidr instead", r.Interface)
	}
	if c := r.Communities; c != nil {
		if len(c.Values) != 1 {
			problem("communities.values: want one community, there are %d", len(c.Values))
		} else if st.Attributes.Community, err = bgp.ParseCommunity(c.Values[0]); err != nil {
			problem("communities.values[0]: %w", err)
		}
	}
	st.Attributes.ASPathPrefix = numbers(r.ASPathPrefix)
	if r.Priority != nil {
		if *r.Priority < 1 || *r.Priority >= maxLocalPref {
			problem("priority %d: want 1 to %d", *r.Priority, maxLocalPref-1)
		}
		st.Attributes.LocalPref = uint32(maxLocalPref - *r.Priority)
	}
	switch r.Action {
	case apiv1.FilterAccept:
	case apiv1.FilterReject:
		st.Action = bgp.Reject
		if len(r.Operations) > 0 {
			problem("operations need the action Accept")
		}
	default:
		errs = append(errs, oneOf("action", string(r.Action), "Accept", "Reject"))
	}
	for i, op := range r.Operations {
		if err := operate(&st.Set, op); err != nil {
			problem("operations[%d]: %w", i, err)
		}
	}
	rule.Statement = st
	return rule, errors.Join(errs...)
}

// matchPrefix reads cidr, matchOperator and prefixLength.
func matchPrefix(st *bgp.Statement, r apiv1.BGPFilterRule) error {
	if r.CIDR == "" {
		if r.MatchOperator != "" || r.PrefixLength != nil {
			return errors.New("matchOperator and prefixLength need a cidr")
		}
		return nil
	}
	cidr, err := netip.ParsePrefix(r.CIDR)
	switch {
	case err != nil:
		return fmt.Errorf("cidr %q: want a range such as 10.0.0.0/8", r.CIDR)
	case cidr != cidr.Masked():
		return fmt.Errorf("cidr %q: has host bits set; want %s", r.CIDR, cidr.Masked())
	case cidr.Addr().Is4() != st.Prefix.Addr().Is4() || cidr.Addr().Is4In6():
		return fmt.Errorf("cidr %q: is not of the rule's address family", r.CIDR)
	}
	st.Prefix, st.MinBits = cidr, cidr.Bits()
	switch r.MatchOperator {
	case apiv1.MatchEqual, apiv1.MatchNotEqual:
		st.MaxBits = cidr.Bits()
	case apiv1.MatchIn, apiv1.MatchNotIn:
	default:
		return oneOf("matchOperator", string(r.MatchOperator), "Equal", "NotEqual", "In", "NotIn")
	}
	st.Outside = r.MatchOperator == apiv1.MatchNotEqual || r.MatchOperator == apiv1.MatchNotIn
	if l := r.PrefixLength; l != nil {
		if l.Min != nil {
			st.MinBits = max(st.MinBits, int(*l.Min))
		}
		if l.Max != nil {
			st.MaxBits = min(st.MaxBits, int(*l.Max))
		}
		if st.MinBits > st.MaxBits {
			return fmt.Errorf("prefixLength: no prefix of %s can be %d to %d bits long", cidr, st.MinBits, st.MaxBits)
		}
	}
	return nil
}

// operate adds an operation of a rule.
func operate(set *bgp.Set, op apiv1.BGPFilterOperation) error {
	switch {
	case op.AddCommunity != nil:
		c, err := bgp.ParseCommunity(op.AddCommunity.Value)
		if err != nil {
			return fmt.Errorf("addCommunity.value: %w", err)
		}
		set.Communities = append(set.Communities, c)
	case op.PrependASPath != nil:
		// Each one puts its numbers before what is there.
		set.Prepend = append(numbers(op.PrependASPath.Prefix), set.Prepend...)
	case op.SetPriority != nil:
		if v := op.SetPriority.Value; v < 1 || v >= maxLocalPref {
			return fmt.Errorf("setPriority.value %d: want 1 to %d", v, maxLocalPref-1)
		}
		set.LocalPref = uint32(maxLocalPref - op.SetPriority.Value)
	default:
		return errors.New("want one of addCommunity, prependASPath and setPriority")
	}
	return nil
}

func numbers(list []apiv1.ASNumber) (out []uint32) {
	for _, n := range list {
		out = append(out, uint32(n))
	}
	return out
}
