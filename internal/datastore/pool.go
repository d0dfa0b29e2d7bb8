package datastore

import (
	"fmt"
	"slices"
	"strings"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/excerpt"
	poolrules "github.com/manx-cni/manx/ipam/pool"
)

// settlePools drops pools that do not validate and, of two that overlap, the
// younger, and records why. Pools that are being deleted stay: addresses of theirs
// may be in use.
func settlePools(pools []*apiv1.IPPool) (kept []*apiv1.IPPool, invalid []Invalid) {
	slices.SortFunc(pools, func(a, b *apiv1.IPPool) int { return strings.Compare(a.Name, b.Name) })
	overlaps := apiv1.Overlaps(pools)
	for _, p := range pools {
		if err := p.Validate(); err != nil {
			invalid = append(invalid, Invalid{Kind: kindPool, Name: p.Name, Reason: oneLine(err)})
			continue
		}
		if older := overlaps[p]; older != nil {
			invalid = append(invalid, Invalid{Kind: kindPool, Name: p.Name,
				Reason: fmt.Sprintf("cidr %s overlaps %s of pool %s, which is there first; pools must be disjoint",
					p.Prefix(), older.Prefix(), older.Name)})
			continue
		}
		kept = append(kept, p)
	}
	return kept, invalid
}

// malformedSelectors names the pools that have a selector which does not parse. Nothing
// is assigned from them (ipam/pool); which nodes they were for cannot be known, so nodes keep
// their blocks and pods their addresses.
func malformedSelectors(pools []*apiv1.IPPool) (invalid []Invalid) {
	for _, p := range pools {
		if err := poolrules.CheckSelectors(p); err != nil {
			invalid = append(invalid, Invalid{
				Kind: kindPool, Name: p.Name, Reason: oneLine(err) + "; nothing is assigned from the pool until that is mended, addresses in use stay",
			})
		}
	}
	return invalid
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
				err = fmt.Errorf("annotation %s=%q: %w", apiv1.AnnotationPoolForceMode, excerpt.Value(mode), err)
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
