package ipam_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// exactly asks for addresses by name.
func exactly(handle string, addrs ...string) ipam.Request {
	r := ipam.Request{Handle: handle, Attrs: map[string]string{"pod": handle, "namespace": "default"}}
	for _, text := range addrs {
		addr := netip.MustParseAddr(text)
		r.Addrs = append(r.Addrs, addr)
		if addr.Is4() {
			r.Num4++
		} else {
			r.Num6++
		}
	}
	return r
}

// TestExact lists where an address that is asked for may lie.
func TestExact(t *testing.T) {
	off := ipPool("off", "10.9.0.0/24", 26)
	off.Spec.Disabled = true
	manual := ipPool("manual", "10.8.0.0/24", 26)
	manual.Spec.AssignmentMode, manual.Spec.NodeSelector = v1.AssignManual, "nobody == 'x'"
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 26), ipPool("six", "fd00::/116", 122), off, manual}
	for _, c := range []struct {
		name    string
		addrs   []string
		config  string
		refused string
		owner   string // of the block of the first address, afterwards
	}{
		{"in its own block", []string{"10.0.0.7"}, "", "", "n1"},
		{"reserved", []string{"10.0.0.9"}, "", "", "n1"},
		{"in nobody's block", []string{"10.0.0.200"}, "", "", "n1"},
		{"both families", []string{"10.0.0.201", "fd00::42"}, "", "", "n1"},
		{"in a manual pool for other nodes", []string{"10.8.0.3"}, "", "", "n1"},
		{"in another's block", []string{"10.0.0.70"}, "", "", "other"},
		{"in another's block, strict", []string{"10.0.0.70"}, strict, "node other's and IPAMConfig strictAffinity is true", "other"},
		{"in a block without owner", []string{"10.0.0.130"}, "", "", ""},
		{"in a block without owner, strict", []string{"10.0.0.130"}, strict, "nobody's any more", ""},
		{"in no pool", []string{"10.77.0.1"}, "", "none of the 4 IPPools", ""},
		{"in a disabled pool", []string{"10.9.0.1"}, "", "pool off (10.9.0.0/24), which is disabled", ""},
		{"taken in its own block", []string{"10.0.0.0"}, "", "already assigned to handle first, pod default/first on node n1", "n1"},
		{"taken in another's block", []string{"10.0.0.64"}, "", "already assigned to handle theirs, pod default/theirs on node other", "other"},
		{"no block may be claimed", []string{"10.0.0.200"},
			`{"strictAffinity":true,"autoAllocateBlocks":false}`, "autoAllocateBlocks is false", ""},
		{"no further block", []string{"10.0.0.200"},
			`{"strictAffinity":true,"autoAllocateBlocks":true,"maxBlocksPerHost":1}`, "maxBlocksPerHost allows 1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &fake.Backend{}
			s := store.New(b)
			n := syncWith(t, ipam.Config{
				Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools },
				Reserved: func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.0.0.8/30")} },
			})
			other := newNode(t, s, "other", pools...)
			for n, req := range map[*node]ipam.Request{n: exactly("first", "10.0.0.0"), other: exactly("theirs", "10.0.0.64")} {
				if _, err := n.Assign(ctx(t), req); err != nil {
					t.Fatal(err)
				}
			}
			orphan := newBlockObject(t, "10.0.0.128/26", "", "old")
			for _, err := range []error{
				second(s.Blocks.Create(ctx(t), orphan)),
				second(s.Handles.Create(ctx(t), newHandle("old", "", map[string]int{"10.0.0.128/26": 1}))),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if c.config != "" {
				settings(b, c.config)
			}
			req := exactly("h", c.addrs...)
			got, err := n.Assign(ctx(t), req)
			var refused *ipam.AddrError
			switch {
			case c.refused == "" && (err != nil || !slices.Equal(got, req.Addrs)):
				t.Fatalf("Assign = %v, %v, want %v", got, err, req.Addrs)
			case c.refused != "" && (!errors.As(err, &refused) || refused.Addr != req.Addrs[0] || !strings.Contains(err.Error(), c.refused)):
				t.Fatalf("Assign = %v, %v, want an AddrError with %q", got, err, c.refused)
			}
			if c.refused == "" {
				if again, err := n.Assign(ctx(t), req); err != nil || !slices.Equal(again, got) {
					t.Errorf("the same again: %v, %v", again, err)
				}
				if _, err := other.Assign(ctx(t), exactly("thief", c.addrs[0])); !errors.As(err, &refused) {
					t.Errorf("another node's Assign of it: %v", err)
				}
			}
			n.flush()
			other.flush()
			held := audit(t, s)
			if len(held["thief"]) > 0 || len(held["h"]) != len(got) {
				t.Errorf("held %v", held)
			}
			for owner, n := range map[string]*node{"n1": n, "other": other} {
				for _, info := range n.Blocks() {
					if info.CIDR.Contains(req.Addrs[0]) && owner != c.owner {
						t.Errorf("block %s is %s's, want %q's", info.CIDR, owner, c.owner)
					}
				}
			}
			if got := n.release("h"); len(got) != len(held["h"]) {
				t.Errorf("Release = %v, held %v", got, held["h"])
			}
			n.flush()
			audit(t, s)
		})
	}
}

// TestExactTogether lets many pods of two nodes want the same address: one gets it.
func TestExactTogether(t *testing.T) {
	s := store.New(&fake.Backend{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	winners := 0
	var nodes []*node
	for _, name := range []string{"n1", "n2"} {
		n := newNode(t, s, name, ipPool("p", "10.0.0.0/24", 26))
		nodes = append(nodes, n)
		for i := range 10 {
			wg.Go(func() {
				_, err := n.Assign(ctx(t), exactly(name+string(rune('a'+i)), "10.0.0.33"))
				if err == nil {
					mu.Lock()
					winners++
					mu.Unlock()
				} else if !errors.As(err, new(*ipam.AddrError)) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, n := range nodes {
		n.flush()
	}
	if held := audit(t, s); winners != 1 || len(held) != 1 {
		t.Errorf("%d pods were given the address and %d hold it, want 1", winners, len(held))
	}
}

// TestExactRefused lists requests that make no sense.
func TestExactRefused(t *testing.T) {
	n := newNode(t, store.New(&fake.Backend{}), "n1", ipPool("p", "10.0.0.0/24", 26))
	two := exactly("h", "10.0.0.1", "10.0.0.2")
	family := exactly("h", "10.0.0.1")
	family.Num4, family.Num6 = 0, 1
	invalid := request("h")
	invalid.Addrs = []netip.Addr{{}}
	mapped := request("h")
	mapped.Addrs = []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")}
	for _, r := range []ipam.Request{two, family, invalid, mapped} {
		if got, err := n.Assign(ctx(t), r); err == nil {
			t.Errorf("Assign(%+v) = %v", r, got)
		}
	}
}

// TestExactOldBlocks asks for an address in a pool that was made anew with another
// blockSize, while blocks of the old size are in use.
func TestExactOldBlocks(t *testing.T) {
	s := store.New(&fake.Backend{})
	old := newNode(t, s, "old", ipPool("p", "10.0.0.0/24", 28))
	if _, err := old.Assign(ctx(t), exactly("a", "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, s, "n1", ipPool("p", "10.0.0.0/24", 26))
	if _, err := n.Assign(ctx(t), exactly("inside", "10.0.0.2")); err != nil {
		t.Errorf("an address in an old block: %v", err)
	}
	if _, err := n.Assign(ctx(t), exactly("beside", "10.0.0.40")); err == nil || !strings.Contains(err.Error(), "overlaps block 10.0.0.0/28") {
		t.Errorf("an address whose block would overlap an old one: %v", err)
	}
	old.flush()
	n.flush()
	audit(t, s)
}
