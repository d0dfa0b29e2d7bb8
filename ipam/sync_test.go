package ipam_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// newBlockObject returns a block of owner (nobody's when empty) in which each of
// handles holds an address.
func newBlockObject(t *testing.T, cidr, owner string, handles ...string) *v1.IPAMBlock {
	t.Helper()
	p := netip.MustParsePrefix(cidr)
	b, err := block.New(p, owner, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range handles {
		b.Assign(block.Owner{Handle: h}, 1, nil)
	}
	o := &v1.IPAMBlock{ObjectMeta: metav1.ObjectMeta{Name: v1.BlockName(p)}, Spec: *b.Spec()}
	if owner == "" {
		o.Spec.Affinity = nil
	}
	return o
}

func newAffinity(cidr, node string, state v1.AffinityState) *v1.BlockAffinity {
	p := netip.MustParsePrefix(cidr)
	return &v1.BlockAffinity{
		ObjectMeta: metav1.ObjectMeta{Name: v1.AffinityName(node, p), Labels: v1.AffinityLabels(node, p)},
		Spec:       v1.BlockAffinitySpec{State: state, Node: node, Type: v1.AffinityTypeHost, CIDR: cidr, Deleted: "false"},
	}
}

// TestSyncFinishes lists what an agent may find of its own when it starts.
func TestSyncFinishes(t *testing.T) {
	const cidr = "10.0.0.0/30"
	old := newAffinity(cidr, "n1", "") // as Calico before 3.31 wrote it
	old.Labels, old.Spec.Type = nil, ""
	other := newAffinity(cidr, "n1-and-more", v1.AffinityConfirmed)
	for _, c := range []struct {
		name     string
		affinity *v1.BlockAffinity
		block    *v1.IPAMBlock
		want     v1.AffinityState // empty: not ours
	}{
		{"claim cut off before the block", newAffinity(cidr, "n1", v1.AffinityPending), nil, v1.AffinityConfirmed},
		{"claim cut off before the confirmation", newAffinity(cidr, "n1", v1.AffinityPending),
			newBlockObject(t, cidr, "n1"), v1.AffinityConfirmed},
		{"claim lost to another", newAffinity(cidr, "n1", v1.AffinityPending), newBlockObject(t, cidr, "n2"), ""},
		{"block lost", newAffinity(cidr, "n1", v1.AffinityConfirmed), nil, v1.AffinityConfirmed},
		{"block of another", newAffinity(cidr, "n1", v1.AffinityConfirmed), newBlockObject(t, cidr, "n2"), ""},
		{"block of nobody", newAffinity(cidr, "n1", v1.AffinityConfirmed), newBlockObject(t, cidr, ""), ""},
		{"old affinity", old, newBlockObject(t, cidr, "n1", "h"), v1.AffinityConfirmed},
		{"being deleted while in use", newAffinity(cidr, "n1", v1.AffinityPendingDeletion),
			newBlockObject(t, cidr, "n1", "h"), v1.AffinityConfirmed},
		{"being deleted", newAffinity(cidr, "n1", v1.AffinityPendingDeletion), newBlockObject(t, cidr, "n1"), ""},
		{"being deleted, block of another", newAffinity(cidr, "n1", v1.AffinityPendingDeletion), newBlockObject(t, cidr, "n2"), ""},
		{"being deleted, block gone", newAffinity(cidr, "n1", v1.AffinityPendingDeletion), nil, ""},
		{"of another node", other, newBlockObject(t, cidr, "n1-and-more"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := store.New(&fake.Backend{})
			if _, err := s.Affinities.Create(ctx(t), c.affinity); err != nil {
				t.Fatal(err)
			}
			if c.block != nil {
				if _, err := s.Blocks.Create(ctx(t), c.block); err != nil {
					t.Fatal(err)
				}
			}
			n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/29", 30))
			n.flush()
			got := n.Blocks()
			switch {
			case c.want == "" && len(got) != 0:
				t.Fatalf("blocks %v, want none", got)
			case c.want != "" && (len(got) != 1 || got[0].State != c.want):
				t.Fatalf("blocks %v, want one that is %s", got, c.want)
			}
			select {
			case <-n.Changed():
			default:
				t.Error("Changed has nothing after the first Sync")
			}
			if c.block != nil && c.block.Spec.Affinity != nil && *c.block.Spec.Affinity == "host:n2" {
				return // others' objects are as they were, which audit would not like
			}
			audit(t, s)
		})
	}
}

// TestHandlesRepaired starts on blocks and handles that disagree.
func TestHandlesRepaired(t *testing.T) {
	s := store.New(&fake.Backend{})
	const cidr = "10.0.0.0/29"
	for _, err := range []error{
		second(s.Affinities.Create(ctx(t), newAffinity(cidr, "n1", v1.AffinityConfirmed))),
		second(s.Blocks.Create(ctx(t), newBlockObject(t, cidr, "n1", "missing", "unlabelled", "wrong"))),
		second(s.Handles.Create(ctx(t), newHandle("unlabelled", "", map[string]int{cidr: 1}))),
		second(s.Handles.Create(ctx(t), newHandle("wrong", "n1", map[string]int{cidr: 3}))),
		second(s.Handles.Create(ctx(t), newHandle("leaked", "n1", map[string]int{cidr: 1}))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/29", 29))
	n.flush()
	audit(t, s)
	mine, _, err := s.Handles.List(ctx(t), v1.LabelHostnameHash+"="+v1.HostnameHash("n1"))
	if err != nil || len(mine) != 3 {
		t.Errorf("%d handles carry the node's label, want 3 (%v)", len(mine), err)
	}
}

func second[T any](_ T, err error) error { return err }

func newHandle(handle, node string, blocks map[string]int) *v1.IPAMHandle {
	o := &v1.IPAMHandle{ObjectMeta: metav1.ObjectMeta{Name: v1.HandleName(handle)}, Spec: v1.IPAMHandleSpec{HandleID: handle, Block: blocks}}
	if node != "" {
		o.Labels = map[string]string{v1.LabelHostnameHash: v1.HostnameHash(node)}
	}
	return o
}

// TestReleaseElsewhere frees addresses in blocks that are not this node's: one
// borrowed from another node and one in a block that lost its owner.
func TestReleaseElsewhere(t *testing.T) {
	s := store.New(&fake.Backend{})
	const orphan, lent = "10.0.0.0/30", "10.0.0.4/30"
	for _, err := range []error{
		second(s.Blocks.Create(ctx(t), newBlockObject(t, orphan, "", "h"))),
		second(s.Blocks.Create(ctx(t), newBlockObject(t, lent, "n2", "h", "stays"))),
		second(s.Affinities.Create(ctx(t), newAffinity(lent, "n2", v1.AffinityConfirmed))),
		second(s.Handles.Create(ctx(t), newHandle("h", "", map[string]int{orphan: 1, lent: 1}))),
		second(s.Handles.Create(ctx(t), newHandle("stays", "", map[string]int{lent: 1}))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/28", 30))
	n.assign("h2")
	if got := n.release("h"); len(got) != 2 {
		t.Errorf("Release = %v, want both addresses", got)
	}
	n.flush()
	if held := audit(t, s); len(held["h"]) != 0 || len(held["stays"]) != 1 {
		t.Errorf("held %v", held)
	}
	if _, err := s.Blocks.Get(ctx(t), v1.BlockName(netip.MustParsePrefix(orphan))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the empty block of nobody is still there (%v)", err)
	}
}

// TestMalformedBlock shows that a block which makes no sense is reported, keeps
// its affinity (pods may live in it) and is never assigned from.
func TestMalformedBlock(t *testing.T) {
	b := &fake.Backend{}
	s := store.New(b)
	if _, err := s.Affinities.Create(ctx(t), newAffinity("10.0.0.0/30", "n1", v1.AffinityConfirmed)); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{
		`{"cidr":"10.0.0.0/30","affinity":"host:n1","allocations":[null,null,null,null],` +
			`"unallocated":[0,0,1,2],"attributes":[],"strictAffinity":false}`,
		`{"cidr":"10.0.0.0/30","affinity":"host:n1","allocations":"many"}`,
	} {
		b.PutRaw(v1.PluralIPAMBlocks, "10-0-0-0-30", `{"metadata":{"name":"10-0-0-0-30","resourceVersion":"900","uid":"u"},"spec":`+spec+`}`)
		n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/29", 30))
		got := n.Blocks()
		if len(got) < 1 || got[0].Problem == "" || !got[0].Confirmed() {
			t.Fatalf("blocks %+v, want a confirmed one with a problem", got)
		}
		if addr := n.assign("h"); netip.MustParsePrefix("10.0.0.0/30").Contains(addr) {
			t.Errorf("%s is assigned from a malformed block", addr)
		}
		n.flush()
		n.kill()
	}
}

// TestFull lists why a node gets no further address, and what it is told.
func TestFull(t *testing.T) {
	disabled := ipPool("off", "10.0.0.0/24", 0)
	disabled.Spec.Disabled = true
	for _, c := range []struct {
		name   string
		pool   *v1.IPPool
		config string
		n      int // addresses there are
		want   []string
	}{
		{"no pool", nil, "", 0, []string{"no IPPool of this family", "create one"}},
		{"disabled", disabled, "", 0, []string{"off: is disabled"}},
		{"pool full", ipPool("p", "10.0.0.0/30", 31), "", 4, []string{
			"pool 10.0.0.0/30 (p) is full: 2 of 2 blocks claimed", "nothing to borrow: no free address in the 0 blocks of others",
			"add a pool or release blocks (manxctl ipam check)"}},
		{"strict", ipPool("p", "10.0.0.0/30", 31), `{"strictAffinity":true,"autoAllocateBlocks":true}`, 4,
			[]string{"2 of 2 blocks claimed", "strictAffinity is true, so no address is borrowed"}},
		{"limit", ipPool("p", "10.0.0.0/24", 31), `{"strictAffinity":true,"autoAllocateBlocks":true,"maxBlocksPerHost":3}`, 6,
			[]string{"maxBlocksPerHost allows 3", "raise it"}},
		{"default limit", ipPool("p", "10.0.0.0/24", 32), "", 20, []string{"maxBlocksPerHost allows 20"}},
		{"no claims", ipPool("p", "10.0.0.0/24", 31), `{"strictAffinity":false,"autoAllocateBlocks":false}`, 0,
			[]string{"autoAllocateBlocks is false"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &fake.Backend{}
			s := store.New(b)
			if c.config != "" {
				b.PutRaw(v1.PluralIPAMConfigs, "default", `{"metadata":{"name":"default"},"spec":`+c.config+`}`)
			}
			var pools []*v1.IPPool
			if c.pool != nil {
				pools = append(pools, c.pool)
			}
			n := newNode(t, s, "n1", pools...)
			for i := range c.n {
				n.assign(string(rune('a' + i)))
			}
			_, err := n.Assign(ctx(t), request("one-more"))
			var full *ipam.PoolFullError
			if !errors.As(err, &full) {
				t.Fatalf("Assign = %v, want a PoolFullError", err)
			}
			for _, want := range append(c.want, "node n1", "IPv4") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			n.flush()
			audit(t, s)
		})
	}
}
