package ctl

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

func (c *ipamCluster) release(o ipamReleaseOptions) (string, error) {
	c.t.Helper()
	var out bytes.Buffer
	err := o.run(c.t.Context(), &out, c.access())
	return out.String(), err
}

func (c *ipamCluster) assigned(addr string) bool {
	c.t.Helper()
	for e := range c.block(blockA).Entries() {
		if e.Addr == netip.MustParseAddr(addr) {
			return true
		}
	}
	return false
}

// wantHandle fails unless the handle counts that; nil is no handle.
func (c *ipamCluster) wantHandle(id string, want map[string]int) {
	c.t.Helper()
	h, err := c.store.Handles.Get(c.t.Context(), apiv1.HandleName(id))
	switch {
	case errors.Is(err, store.ErrNotFound):
		if want != nil {
			c.t.Errorf("handle %s is gone; want %v", id, want)
		}
	case err != nil:
		c.t.Fatal(err)
	case len(h.Spec.Block) != len(want) || want == nil:
		c.t.Errorf("handle %s counts %v; want %v", id, h.Spec.Block, want)
	default:
		for cidr, n := range want {
			if h.Spec.Block[cidr] != n {
				c.t.Errorf("handle %s counts %v; want %v", id, h.Spec.Block, want)
			}
		}
	}
}

func TestReleaseIP(t *testing.T) {
	c := newIPAMCluster(t)
	before := c.block(blockA).Spec().SequenceNumber
	out, err := c.release(ipamReleaseOptions{ip: "10.244.0.3"})
	wantError(t, err)
	golden(t, "ipam-release-ip", out)
	if c.assigned("10.244.0.3") || c.block(blockA).Spec().SequenceNumber != before+1 {
		t.Errorf("the block is not written: %+v", c.block(blockA).Spec())
	}
	c.wantHandle("net.gone", nil)
	c.backend.TakeOps()
	out, err = c.release(ipamReleaseOptions{ip: "10.244.0.3"})
	if wantError(t, err); out != "IP 10.244.0.3 is not assigned: nothing to release.\n" {
		t.Errorf("the second time: %s", out)
	}
	for _, op := range c.backend.TakeOps() {
		if op.Write() {
			t.Errorf("the second time wrote: %s", op)
		}
	}
}

func TestReleaseKeepsWhatIsInUse(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*ipamCluster)
		ip     string
		user   string
	}{
		"a pod":         {func(*ipamCluster) {}, "10.244.0.1", "pod default/web on node node1"},
		"a tunnel":      {func(*ipamCluster) {}, "10.244.0.0", "ipipTunnelAddress of node node1"},
		"borrowed":      {func(*ipamCluster) {}, "10.244.0.2", "pod default/db on node node2"},
		"a pod, starts": {func(c *ipamCluster) { c.pod("gone", "node1", "") }, "10.244.0.3", "pod default/gone on node node1, which is starting"},
		"an interface": {func(c *ipamCluster) {
			c.agent("node1", status.Addresses{
				Interfaces: []status.Interface{{Name: "cali9", Handle: "net.gone", Addrs: []netip.Addr{netip.MustParseAddr("10.244.0.3")}}},
			})
		}, "10.244.0.3", "interface cali9 of node node1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newIPAMCluster(t)
			tc.change(c)
			_, err := c.release(ipamReleaseOptions{ip: tc.ip})
			wantError(t, err, "kept 1 address, in use by "+tc.ip+": "+tc.user, "--force")
			if !c.assigned(tc.ip) {
				t.Error("it was released all the same")
			}
			out, err := c.release(ipamReleaseOptions{ip: tc.ip, force: true})
			if wantError(t, err); c.assigned(tc.ip) {
				t.Errorf("--force did not release it:\n%s", out)
			}
		})
	}
}

// An agent that does not answer is named, and does not hold the release.
func TestReleaseWithoutTheAgent(t *testing.T) {
	c := newIPAMCluster(t)
	delete(c.answers, "manx-node1")
	out, err := c.release(ipamReleaseOptions{ip: "10.244.0.3"})
	if wantError(t, err); !strings.Contains(out,
		"Node node1 is judged by the Kubernetes API alone: manxctl in pod manx-node1: connection refused") {
		t.Errorf("got\n%s", out)
	}
}

// Others write the block at the same time.
func TestReleaseRaces(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*ipamCluster)
		says      string
		assigned  bool
	}{
		"another address": {func(c *ipamCluster) {
			c.change(blockA, func(b *block.Block) { c.assign(b, "10.244.0.9", "new", "node1") })
		}, "Released IP 10.244.0.3", false},
		"released by somebody": {func(c *ipamCluster) { c.change(blockA, func(b *block.Block) { b.ReleaseHandle("net.gone") }) },
			"has been released already, or has a new holder", false},
		"assigned anew": {func(c *ipamCluster) {
			c.change(blockA, func(b *block.Block) { b.ReleaseHandle("net.gone"); c.assign(b, "10.244.0.3", "new", "node1") })
		}, "has a new holder", true},
		"assigned anew to the same": {func(c *ipamCluster) {
			c.change(blockA, func(b *block.Block) { b.ReleaseHandle("net.gone"); c.assign(b, "10.244.0.3", "gone", "node1") })
		}, "has a new holder", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newIPAMCluster(t)
			done := false
			c.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
				if op.Verb == "update" && op.Resource == apiv1.PluralIPAMBlocks && !done {
					done = true
					tc.meanwhile(c)
				}
				return nil, nil
			})
			out, err := c.release(ipamReleaseOptions{ip: "10.244.0.3"})
			if wantError(t, err); !strings.Contains(out, tc.says) || c.assigned("10.244.0.3") != tc.assigned {
				t.Errorf("assigned %t; want %t, and %q in\n%s", c.assigned("10.244.0.3"), tc.assigned, tc.says, out)
			}
			if name == "another address" && !c.assigned("10.244.0.9") {
				t.Error("what the other has written is lost")
			}
		})
	}
}

func TestReleaseFails(t *testing.T) {
	c := newIPAMCluster(t)
	c.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
		if op.Verb == "update" && op.Resource == apiv1.PluralIPAMBlocks {
			return nil, errors.New("connection lost") // and done
		}
		return nil, nil
	})
	_, err := c.release(ipamReleaseOptions{ip: "10.244.0.3"})
	wantError(t, err, "release 1 address of block 10.244.0.0/26", "connection lost", "run the command again")
	c.backend.SetHook(func(_ context.Context, op fake.Op) (before, after error) {
		if op.Verb == "update" && op.Resource == apiv1.PluralIPAMBlocks {
			return store.ErrConflict, nil
		}
		return nil, nil
	})
	_, err = c.release(ipamReleaseOptions{ip: "10.244.0.1", force: true})
	wantError(t, err, "changed by somebody else")
	c.backend.SetHook(nil)
	c.backend.PutRaw(apiv1.PluralIPAMBlocks, "10-244-7-0-26", `{"metadata":{"name":"10-244-7-0-26"},"spec":{"cidr":"junk"}}`)
	_, err = c.release(ipamReleaseOptions{ip: "10.244.7.9"})
	wantError(t, err, "block 10.244.7.0/26, which has 10.244.7.9, is malformed", "repair it first")
}

// A handle with addresses elsewhere keeps them, and its miscounts are put right.
func TestReleaseRepairsTheHandle(t *testing.T) {
	c := newIPAMCluster(t)
	c.change(blockB, func(b *block.Block) {
		c.must(b.AssignIP(netip.MustParseAddr("10.244.1.5"), block.Owner{
			Handle: "net.gone", Attrs: map[string]string{"pod": "gone", "namespace": "default", "node": "node1"},
		}))
	})
	h, err := c.store.Handles.Get(t.Context(), "net.gone")
	c.must(err)
	h.Spec.Block = map[string]int{blockA: 1, blockB: 3, "10.244.99.0/26": 1}
	_, err = c.store.Handles.Update(t.Context(), h)
	c.must(err)
	_, err = c.release(ipamReleaseOptions{ip: "10.244.0.3"})
	wantError(t, err)
	c.wantHandle("net.gone", map[string]int{blockB: 1})
	_, err = c.release(ipamReleaseOptions{ip: "10.244.1.5"})
	wantError(t, err)
	c.wantHandle("net.gone", nil)
}

// A block without an owner goes with its last address.
func TestReleaseRemovesTheLastOfABlock(t *testing.T) {
	c := newIPAMCluster(t)
	p := netip.MustParsePrefix("10.244.5.0/26")
	b, err := block.New(p, "node1", metav1.Now().Time)
	c.must(err)
	c.must(b.AssignIP(netip.MustParseAddr("10.244.5.1"), block.Owner{Handle: "net.lost", Attrs: map[string]string{"node": "node9"}}))
	spec := *b.Spec()
	spec.Affinity = nil
	_, err = c.store.Blocks.Create(t.Context(), &apiv1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: apiv1.BlockName(p)}, Spec: spec})
	c.must(err)
	_, err = c.release(ipamReleaseOptions{ip: "10.244.5.1"})
	wantError(t, err)
	if _, err := c.store.Blocks.Get(t.Context(), apiv1.BlockName(p)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the block is still there: %v", err)
	}
}

// report writes what check finds to a file.
func (c *ipamCluster) report() string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "report.json")
	err := (&ipamCheckOptions{output: reportOutput{file: path}}).run(c.t.Context(), &bytes.Buffer{}, c.access())
	if err == nil {
		c.t.Fatal("check found nothing to release")
	}
	return path
}

func TestReleaseFromReport(t *testing.T) {
	c := newIPAMCluster(t)
	c.change(blockA, func(b *block.Block) {
		c.assign(b, "10.244.0.4", "gone2", "node1")
		c.assign(b, "10.244.0.5", "gone3", "node1")
	})
	c.handle("net.gone2", blockA)
	c.handle("net.gone3", blockA)
	c.handle("net.Orphan", blockB)
	c.handle("net.changed", blockB)
	c.handle("net.removed", blockB)
	path := c.report()
	if r, err := ipamreport.ReadReport(path); err != nil || len(r.LeakedHandles) != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	// Between the report and the release things move on.
	c.pod("gone2", "node1", "10.244.0.4")
	c.change(blockA, func(b *block.Block) { b.ReleaseHandle("net.gone3"); c.assign(b, "10.244.0.5", "new", "node1") })
	h, err := c.store.Handles.Get(t.Context(), "net.changed")
	c.must(err)
	h.Spec.Block = map[string]int{blockB: 2}
	_, err = c.store.Handles.Update(t.Context(), h)
	c.must(err)
	h, err = c.store.Handles.Get(t.Context(), "net.removed")
	c.must(err)
	c.must(c.store.Handles.Delete(t.Context(), h))

	out, err := c.release(ipamReleaseOptions{report: path})
	wantError(t, err, "kept 1 address, in use by 10.244.0.4: pod default/gone2 on node node1")
	golden(t, "ipam-release-report", out)
	for addr, want := range map[string]bool{
		"10.244.0.1": true, "10.244.0.2": true, "10.244.0.3": false, "10.244.0.4": true, "10.244.0.5": true,
	} {
		if c.assigned(addr) != want {
			t.Errorf("%s assigned: %t; want %t", addr, !want, want)
		}
	}
	c.wantHandle("net.Orphan", nil)
	c.wantHandle("net.gone", nil)
	c.wantHandle("net.changed", map[string]int{blockB: 2})
	c.wantHandle("net.web", map[string]int{blockA: 1})

	out, err = c.release(ipamReleaseOptions{report: path, force: true})
	wantError(t, err)
	if c.assigned("10.244.0.4") || !c.assigned("10.244.0.5") || !strings.Contains(out, "Handle net.Orphan has been removed already.") {
		t.Errorf("the second time, with --force:\n%s", out)
	}
}

func TestReleaseFromAnothersReport(t *testing.T) {
	c := newIPAMCluster(t)
	path := c.report()
	other := newIPAMCluster(t)
	o, err := other.backend.Get(t.Context(), apiv1.PluralClusterInformations, "default")
	other.must(err)
	_, err = other.backend.Update(t.Context(), apiv1.PluralClusterInformations, "default",
		[]byte(strings.Replace(string(o), `"abc"`, `"xyz"`, 1)))
	other.must(err)
	_, err = other.release(ipamReleaseOptions{report: path, force: true})
	wantError(t, err, `is of another cluster (its clusterGUID is "abc", this cluster's "xyz")`, "manxctl ipam check -o FILE")
	if !other.assigned("10.244.0.3") {
		t.Error("it was released all the same")
	}
	_, err = other.release(ipamReleaseOptions{report: filepath.Join(t.TempDir(), "absent")})
	wantError(t, err, "read the report")
	_, err = other.release(ipamReleaseOptions{ip: "x"})
	wantError(t, err, `--ip="x": want an address`)
}
