//go:build cluster

package chaos_test

import (
	"context"
	"slices"
	"testing"
	"time"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/test/history"
)

const (
	// shortGrace is the collector's grace period in these tests.
	shortGrace = 5 * time.Second
	// collected bounds two collection cycles: the grace period, looks at half of it,
	// and a leader that was killed and has to be waited for.
	collected = 90 * time.Second
	// hurried is how fast the agents' clocks go: a block is a minute old after 2 s.
	hurried = 30
)

// smallPools are short of addresses for three nodes: 64 and 128.
func smallPools() []*v1.IPPool {
	return []*v1.IPPool{ipPool("small", "10.66.0.0/26", 29), ipPool("six", "fd00:66::/121", 125)}
}

// TestHistory is the claim: whatever is killed, no address is held twice at
// any instant, and nothing is lost or leaked in the end.
func TestHistory(t *testing.T) {
	s, d := seed(t), duration(t, 40*time.Second)
	w := build(t, setup{
		pools: smallPools(), config: v1.IPAMConfigSpec{AutoAllocateBlocks: true},
		nodes: []string{"alpha", "beta", "gamma"}, speed: hurried, grace: shortGrace,
	})
	storm := newStorm(w, s, true)
	// A slow machine has less happen in the time: it goes on until nothing is missing.
	const rounds = 4
	for range rounds {
		if err := storm.blow(t.Context(), d*2/3, true); err != nil {
			t.Fatal(err)
		}
		w.awaitAgents()
		storm.flood(w.nodes[1])
		if len(w.missing()) == 0 {
			break
		}
	}
	w.configure(func(c *v1.IPAMConfigSpec) { c.StrictAffinity = true })
	loose := w.counted()
	if err := storm.blow(t.Context(), d/3, true); err != nil {
		t.Fatal(err)
	}
	w.awaitAgents()
	start := time.Now()
	w.report("at the end", w.settle(t.Context(), collected))
	t.Logf("quiet after %s", time.Since(start).Round(time.Millisecond))
	if !t.Failed() {
		w.oneMoreCycle(storm.someWithPods())
	}
	w.verify()
	w.log(d)

	total := w.counted()
	if strict := total.Borrowed - loose.Borrowed; strict > 0 {
		t.Errorf("%d addresses were borrowed although strictAffinity forbade it", strict)
	}
	for _, what := range w.missing() {
		t.Errorf("the test had not one case of %s", what)
	}
}

// missing names what has not happened: that proves nothing.
func (w *world) missing() (out []string) {
	c := w.counted()
	for what, n := range map[string]int64{
		"an ADD": w.did.adds.Load(), "a repeated ADD": w.did.repeated.Load(), "a canceled ADD": w.did.canceled.Load(),
		"a DEL": w.did.dels.Load(), "a DEL of nothing": w.did.strayDels.Load(), "a leak": w.did.leaks.Load(),
		"a restarted container": w.did.restarts.Load(), "a pool that was full": w.did.full.Load(),
		"a killed agent": w.did.kills.Load(), "a killed API server": w.did.serverRestarts.Load(),
		"a borrowed address": int64(c.Borrowed), "a reclaimed block": int64(c.Reclaimed),
	} {
		if n == 0 {
			out = append(out, what)
		}
	}
	slices.Sort(out)
	return out
}

// oneMoreCycle leaks an address and waits until it is collected. Then the collector
// has looked at everything else twice too, and must not have touched it.
func (w *world) oneMoreCycle(k *kubelet) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience+collected)
	defer cancel()
	if len(k.pods) == 0 {
		if err := k.start(ctx); err != nil || len(k.pods) == 0 {
			w.t.Fatalf("start a pod on %s: %v", k.n.name, err)
		}
	}
	if err := k.leak(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.report("one cycle later", w.settle(ctx, collected))
}

func (w *world) log(d time.Duration) {
	w.t.Helper()
	c, did := w.counted(), &w.did
	w.t.Logf("%s: %d addresses assigned; %d ADDs answered, %d failed (%d of a full pool), %d repeated, %d canceled; "+
		"%d DELs, %d of nothing; %d leaks, %d containers restarted",
		d, c.Assigned, did.adds.Load(), did.addsFailed.Load(), did.full.Load(), did.repeated.Load(), did.canceled.Load(),
		did.dels.Load(), did.strayDels.Load(), did.leaks.Load(), did.restarts.Load())
	w.t.Logf("killed: %d agents, %d controllers, %d API servers", did.kills.Load(), did.controllerKills.Load(), did.serverRestarts.Load())
	w.t.Logf("%d claims, %d borrowed, %d reclaimed, %d given back, %d repaired; %d block writes, %d conflicts, %.3f conflicts per ADD",
		c.Claims, c.Borrowed, c.Reclaimed, c.GivenBack, c.Repaired, c.BlockWrites, c.Conflicts, ratio(c.Conflicts, c.Assigned))
}

func ratio(a, b uint64) float64 { return float64(a) / float64(max(b, 1)) }

// TestControl shows that broken allocators are caught: one that lies, and one that
// does not compare before it swaps, which needs two writers of one block to matter.
func TestControl(t *testing.T) {
	s := seed(t)
	for _, broken := range []string{brokenTwice, brokenBlind} {
		t.Run(broken, func(t *testing.T) {
			w := build(t, setup{
				pools: smallPools(), config: v1.IPAMConfigSpec{AutoAllocateBlocks: true},
				nodes: []string{"alpha", "beta", "gamma"}, speed: hurried, broken: broken,
			})
			storm := newStorm(w, s, false)
			const tries, each = 40, 3 * time.Second
			for range tries {
				if err := storm.blow(t.Context(), each, false); err != nil {
					t.Fatal(err)
				}
				for _, v := range history.Check(w.record.Events()) {
					if v.Rule == history.HeldTwice {
						t.Logf("caught: %s", v)
						return
					}
				}
			}
			t.Errorf("an allocator that %s was not caught", broken)
			w.log(tries * each)
		})
	}
}
