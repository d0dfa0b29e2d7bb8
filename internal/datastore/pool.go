package datastore

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// settlePools drops pools that do not validate and, of two that overlap, the one
// whose name sorts later, and records why.
func settlePools(pools []*apiv1.IPPool) (kept []*apiv1.IPPool, invalid []Invalid) {
	slices.SortFunc(pools, func(a, b *apiv1.IPPool) int { return strings.Compare(a.Name, b.Name) })
	var taken []netip.Prefix
next:
	for _, p := range pools {
		if err := p.Validate(); err != nil {
			invalid = append(invalid, Invalid{Kind: kindPool, Name: p.Name, Reason: oneLine(err)})
			continue
		}
		cidr := netip.MustParsePrefix(p.Spec.CIDR).Masked()
		for i, t := range taken {
			if t.Overlaps(cidr) {
				invalid = append(invalid, Invalid{Kind: kindPool, Name: p.Name,
					Reason: fmt.Sprintf("cidr %s overlaps %s of pool %s; pools must be disjoint", cidr, t, kept[i].Name)})
				continue next
			}
		}
		kept, taken = append(kept, p), append(taken, cidr)
	}
	return kept, invalid
}

// settleForced reads the modes that users force on valid pools. A mode the pool
// could not have in its spec is left out, and why is recorded; the pool stays.
func settleForced(pools []*apiv1.IPPool) (forced map[string]apiv1.EncapMode, invalid []Invalid) {
	for _, p := range pools {
		mode, err := forcedMode(p)
		if err == nil && mode != "" {
			as := apiv1.IPPool{Spec: p.Spec}
			as.Spec.IPIPMode = mode
			if err = as.Validate(); err != nil {
				err = fmt.Errorf("annotation %s=%q: %w", apiv1.AnnotationPoolForceMode, mode, err)
			}
		}
		switch {
		case err != nil:
			invalid = append(invalid, Invalid{Kind: kindPool, Name: p.Name, Reason: oneLine(err) + "; the pool is used without the annotation"})
		case mode != "":
			if forced == nil {
				forced = map[string]apiv1.EncapMode{}
			}
			forced[p.Name] = mode
		}
	}
	return forced, invalid
}

// forcedMode is what the annotation manx.io/force-ipip-mode says, unchecked; ""
// when it is absent. The object's own comes first: kubectl puts it there, in
// haste, also on a pool that calicoctl has made.
func forcedMode(p *apiv1.IPPool) (apiv1.EncapMode, error) {
	if v, ok := p.Annotations[apiv1.AnnotationPoolForceMode]; ok {
		return apiv1.EncapMode(v), nil
	}
	_, annotations, err := apiv1.UserMetadata(p.ObjectMeta)
	if err != nil {
		return "", err
	}
	return apiv1.EncapMode(annotations[apiv1.AnnotationPoolForceMode]), nil
}
