package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/ipam/gc"
	"github.com/manx-cni/manx/ipam/pool"
)

// verdict is what the controller thinks of one pool.
type verdict struct {
	*v1.IPPool
	cidr   netip.Prefix // zero: the pool is not used
	reason string       // of the condition Ready
	text   string
	use    gc.Use
	blocks []gc.Block // that are the pool's
	// cooling and malformed blocks count here too: whatever a block has is in use
	holders map[string]int // addresses in use, by node
}

// judgePools says of every pool whether it is used. A pool that overlaps an older
// one is not, as everywhere in Manx. Pools that are being deleted count: their
// addresses are in use.
func judgePools(pools []*v1.IPPool, blocks []gc.Block, reserved []netip.Prefix) []*verdict {
	var out []*verdict
	overlaps := v1.Overlaps(pools)
	for _, p := range pools {
		v := &verdict{IPPool: p, reason: v1.PoolReady, text: "addresses are assigned from the pool", holders: map[string]int{}}
		out = append(out, v)
		if err := p.Validate(); err != nil {
			v.reason, v.text = v1.PoolInvalid, "ignored: "+strings.ReplaceAll(err.Error(), "\n", "; ")
			continue
		}
		cidr := p.Prefix()
		if older := overlaps[p]; older != nil {
			v.reason = v1.PoolOverlaps
			v.text = fmt.Sprintf("ignored: cidr %s overlaps %s of pool %s, which is there first; pools must be disjoint",
				cidr, older.Prefix(), older.Name)
			continue
		}
		if why := p.Uncarried(); why != "" {
			v.reason, v.text = v1.PoolEncapsulation, why+"; no addresses are assigned from the pool, and packets to those in use travel as they are"
		}
		if p.Spec.Disabled {
			v.reason, v.text = v1.PoolDisabled, "spec.disabled: no addresses are assigned from the pool, those in use stay"
		}
		if err := pool.CheckSelectors(p); err != nil {
			v.reason = v1.PoolInvalid
			v.text = strings.ReplaceAll(err.Error(), "\n", "; ") + "; nothing is assigned from the pool until that is mended, addresses in use stay"
		}
		v.cidr = cidr
		v.use = gc.UseOf(cidr, blocks, reserved)
		for _, b := range blocks {
			if !gc.In(b.CIDR(), cidr) {
				continue
			}
			v.blocks = append(v.blocks, b)
			for e := range b.Entries() {
				v.holders[gc.NodeOf(e.Attrs)]++
			}
		}
	}
	for _, v := range out {
		if v.DeletionTimestamp != nil && v.cidr.IsValid() {
			v.reason, v.text = v1.PoolFinalizing, v.held()
		}
	}
	return out
}

// bar notes which pools lie over the network of nodes or services.
func bar(verdicts []*verdict, network v1.Network) {
	byName := map[string]*verdict{}
	var used []*v1.IPPool
	for _, v := range verdicts {
		if v.cidr.IsValid() && v.reason != v1.PoolFinalizing {
			byName[v.Name], used = v, append(used, v.IPPool)
		}
	}
	for name, why := range v1.Barred(used, network) {
		byName[name].reason, byName[name].text = v1.PoolOverlapsNetwork, why
	}
}

// reachable is the condition that says whether other nodes have routes to the pool, or
// nil where there is nothing to be said.
func (v *verdict) reachable() *metav1.Condition {
	if !v.cidr.IsValid() || !v.Spec.DisableBGPExport {
		return nil
	}
	return &metav1.Condition{
		Type: v1.ConditionPoolReachable, Status: metav1.ConditionFalse, Reason: v1.PoolNotExported, Message: v1.NotExportedText(v.IPPool),
		ObservedGeneration: v.Generation,
	}
}

// named bounds how many nodes are named in a message.
const named = 5

// held says what keeps a pool that is being deleted.
func (v *verdict) held() string {
	if v.use.Addresses == 0 {
		return "is being deleted; no address is in use any more"
	}
	var nodes []string
	for node := range v.holders {
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b string) int {
		if d := v.holders[b] - v.holders[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var where []string
	for i, node := range nodes {
		if i == named {
			where = append(where, fmt.Sprintf("%d more nodes", len(nodes)-named))
			break
		}
		if node == "" {
			node = "unknown"
		}
		where = append(where, fmt.Sprintf("%s (%d)", node, v.holders[nodes[i]]))
	}
	return fmt.Sprintf("deletion waits for %d addresses in use, on %s; see kubectl get ipamblocks -o wide or manxctl ipam show --show-blocks",
		v.use.Addresses, strings.Join(where, ", "))
}

// status returns the pool's status as it should be.
func (v *verdict) status(now metav1.Time) *v1.IPPoolStatus {
	out := &v1.IPPoolStatus{}
	if v.Status != nil {
		out.Conditions = slices.Clone(v.Status.Conditions)
	}
	ready := metav1.Condition{
		Type: v1.ConditionPoolReady, Status: metav1.ConditionFalse, Reason: v.reason, Message: excerpt.Message(v.text),
		ObservedGeneration: v.Generation, LastTransitionTime: now,
	}
	if v.reason == v1.PoolReady {
		ready.Status = metav1.ConditionTrue
	}
	setCondition(out, ready)
	if c := v.reachable(); c != nil {
		c.LastTransitionTime = now
		setCondition(out, *c)
	} else {
		out.Conditions = slices.DeleteFunc(out.Conditions, func(c metav1.Condition) bool { return c.Type == v1.ConditionPoolReachable })
	}
	settleSettings(out, v.IPPool, now)
	if v.cidr.IsValid() {
		out.Use = &v1.IPPoolUse{
			Blocks: int64(v.use.Blocks), Addresses: int64(v.use.Addresses), Capacity: v.use.Capacity(), Percent: v.use.PercentText(),
		}
	}
	return out
}

// setCondition enters a condition; the time of its last transition stays while its
// status does.
func setCondition(s *v1.IPPoolStatus, now metav1.Condition) {
	i := slices.IndexFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == now.Type })
	switch {
	case i < 0:
		s.Conditions = append(s.Conditions, now)
	case s.Conditions[i].Status == now.Status:
		now.LastTransitionTime = s.Conditions[i].LastTransitionTime
		fallthrough
	default:
		s.Conditions[i] = now
	}
}

// fullness is how full a pool is, in the steps that are told.
type fullness int

const (
	roomy fullness = iota
	nearlyFull
	full
)

// Percent of a pool's capacity from which it is nearly full, and below which it is
// not any more: pods come and go, and one Event a crossing is enough.
const (
	nearlyFullFrom  = 90
	nearlyFullBelow = 85
)

// fullnessOf returns how full a pool is that was so before.
func fullnessOf(u gc.Use, before fullness) fullness {
	switch p := u.Percent(); {
	case u.Capacity() <= 0, p >= 100:
		return full
	case p >= nearlyFullFrom, before != roomy && p >= nearlyFullBelow:
		return nearlyFull
	}
	return roomy
}

// told returns how full a pool was when its status was written last, so that a
// new leader does not tell again what the one before it told.
func told(s *v1.IPPoolStatus) fullness {
	if s == nil || s.Use == nil {
		return roomy
	}
	return fullnessOf(gc.Use{Addresses: int(s.Use.Addresses), Size: s.Use.Capacity}, roomy)
}
