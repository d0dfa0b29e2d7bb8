package datastore

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// affinityObject is a BlockAffinity as the informer keeps it: a cluster has
// thousands of them.
type affinityObject struct {
	metav1.ObjectMeta
	claim claim
}

// claim is what a BlockAffinity says of a block's owner. It is the zero claim
// while the block is not the node's for certain.
type claim struct {
	block netip.Prefix
	node  string
	err   error // why the object cannot be used
}

func trimAffinity(o any) (any, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	return &affinityObject{ObjectMeta: identity(u), claim: parseAffinity(u)}, nil
}

func parseAffinity(u *unstructured.Unstructured) claim {
	var a apiv1.BlockAffinity
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &a); err != nil {
		return claim{err: err}
	}
	node, block, err := a.Claim()
	switch {
	case a.Deleted():
		return claim{}
	case err != nil:
		return claim{err: err}
	case a.Virtual(), !a.State().Confirmed():
		return claim{}
	}
	return claim{block: block, node: node}
}

// affinities registers BlockAffinity. A claim under way comes to nothing.
func affinities() registration {
	return registration{
		kind: kindAffinity, plural: apiv1.PluralBlockAffinities, transform: trimAffinity,
		silent: func(o any) bool {
			a, ok := o.(*affinityObject)
			return ok && a.claim == (claim{})
		},
		essence: func(o any) any { return o.(*affinityObject).claim },
		settle: func(objects []any) settled {
			byBlock, invalid := settleOwners(objects)
			return settled{put: func(s *Snapshot) { s.Owners = byBlock }, invalid: invalid}
		},
	}
}

// settleOwners makes the map. A block that is confirmed for two nodes has no
// owner: sending its packets to the wrong one would lose them, and BGP knows
// who announces it.
func settleOwners(objects []any) (byBlock map[netip.Prefix]string, invalid []Invalid) {
	byBlock = make(map[netip.Prefix]string, len(objects))
	contested := map[netip.Prefix][]string{}
	for _, o := range objects {
		a, ok := o.(*affinityObject)
		switch {
		case !ok:
		case a.claim.err != nil:
			invalid = append(invalid, Invalid{Kind: kindAffinity, Name: a.Name, Reason: oneLine(a.claim.err)})
		case a.claim.node != "":
			if other, taken := byBlock[a.claim.block]; taken && other != a.claim.node {
				contested[a.claim.block] = nil
			}
			byBlock[a.claim.block] = a.claim.node
		}
	}
	if len(contested) == 0 {
		return byBlock, invalid
	}
	var losers []*affinityObject
	for _, o := range objects {
		if a, ok := o.(*affinityObject); ok {
			if nodes, found := contested[a.claim.block]; found {
				contested[a.claim.block] = append(nodes, a.claim.node)
				losers = append(losers, a)
			}
		}
	}
	for _, a := range losers {
		nodes := slices.Sorted(slices.Values(contested[a.claim.block]))
		invalid = append(invalid, Invalid{Kind: kindAffinity, Name: a.Name,
			Reason: fmt.Sprintf("block %s is confirmed for nodes %s: it counts as nobody's; delete the affinity that is wrong",
				a.claim.block, strings.Join(slices.Compact(nodes), " and "))})
		delete(byBlock, a.claim.block)
	}
	return byBlock, invalid
}
