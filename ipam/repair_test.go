package ipam_test

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// interfaces stands for the pod interfaces of a node.
type interfaces struct {
	mu   sync.Mutex
	have map[netip.Addr]string
}

func (i *interfaces) inUse() map[netip.Addr]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.have)
}

func (i *interfaces) set(addr netip.Addr, handle string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.have == nil {
		i.have = map[netip.Addr]string{}
	}
	if i.have[addr] = handle; handle == "" {
		delete(i.have, addr)
	}
}

// forget removes a handle's addresses from the stored blocks, as a restore of an
// older copy does.
func forget(t *testing.T, s store.Store, handle string) {
	t.Helper()
	blocks, _, err := s.Blocks.List(ctx(t), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range blocks {
		b, err := block.Parse(&o.Spec)
		if err != nil {
			t.Fatal(err)
		}
		if b.ReleaseHandle(handle) != nil {
			o.Spec = *b.Spec()
			if _, err := s.Blocks.Update(ctx(t), o); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func repairNode(t *testing.T, s store.Store, i *interfaces, log *bytes.Buffer, pools ...*v1.IPPool) *node {
	t.Helper()
	c := ipam.Config{Node: "n1", Store: s, Pools: func() []*v1.IPPool { return pools }, InUse: i.inUse,
		Owner: func(handle string) map[string]string {
			return map[string]string{"pod": "pod-of-" + handle, "namespace": "default"}
		}}
	if log != nil {
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	return syncWith(t, c)
}

// TestRepair takes addresses that the blocks have lost again for their handles.
func TestRepair(t *testing.T) {
	for _, how := range []string{"background", "sync", "restart"} {
		t.Run(how, func(t *testing.T) {
			s := store.New(&fake.Backend{})
			i := &interfaces{}
			pools := []*v1.IPPool{ipPool("p", "10.0.0.0/29", 29)}
			n := repairNode(t, s, i, nil, pools...)
			addr := n.assign("h")
			i.set(addr, "h")
			n.flush()
			forget(t, s, "h")
			if h, err := s.Handles.Get(ctx(t), "h"); err != nil || s.Handles.Delete(ctx(t), h) != nil {
				t.Fatal(err)
			}
			switch how {
			case "background":
				<-n.Changed()
				n.Recheck(netip.PrefixFrom(addr, 32))
				eventually(t, "noticed", func() bool { return n.Held("h") == nil })
				n.tick()
			case "sync":
				if err := n.Sync(ctx(t)); err != nil {
					t.Fatal(err)
				}
			case "restart":
				n.kill()
				n = repairNode(t, s, i, nil, pools...)
			}
			if got := n.Held("h"); !slices.Equal(got, []netip.Addr{addr}) {
				t.Errorf("h holds %v, its interface has %s", got, addr)
			}
			if c := n.Counters(); c.Repaired != 1 {
				t.Errorf("%d repaired, want 1", c.Repaired)
			}
			n.flush()
			audit(t, s)
			// Without its owner's name a collector could never tell that it is leaked.
			if e, ok := blockAt(t, s, addr).Holder(addr); !ok || e.Attrs["pod"] != "pod-of-h" ||
				e.Attrs["namespace"] != "default" || e.Attrs["node"] != "n1" {
				t.Errorf("the block says of %s: %+v", addr, e)
			}
		})
	}
}

// blockAt returns the stored /29 that addr is in.
func blockAt(t *testing.T, s store.Store, addr netip.Addr) *block.Block {
	t.Helper()
	o, err := s.Blocks.Get(ctx(t), v1.BlockName(netip.PrefixFrom(addr, 29).Masked()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := block.Parse(&o.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRepairElsewhere repairs where the block itself is not what it was.
func TestRepairElsewhere(t *testing.T) {
	off := ipPool("off", "10.9.0.0/24", 26)
	off.Spec.Disabled = true
	pools := []*v1.IPPool{ipPool("p", "10.0.0.0/24", 26), off}
	for name, c := range map[string]struct {
		addr, config string
		prepare      func(t *testing.T, s store.Store)
		logged       string // what cannot be repaired is said once
	}{
		"block gone":                {"10.0.0.5", "", func(*testing.T, store.Store) {}, ""},
		"block gone, pool disabled": {"10.9.0.5", "", func(*testing.T, store.Store) {}, ""},
		"block gone, limit reached": {"10.0.0.5", `{"strictAffinity":true,"autoAllocateBlocks":false,"maxBlocksPerHost":1}`,
			func(*testing.T, store.Store) {}, ""},
		"block another's":          {"10.0.0.5", "", others, ""},
		"block another's, strict":  {"10.0.0.5", strict, others, "strictAffinity"},
		"borrowed without a label": {"10.0.0.5", strict, unlabelled, ""},
		"address another's":        {"10.0.0.64", "", others, "already assigned to handle theirs"},
		"pool gone":                {"10.55.0.1", "", func(*testing.T, store.Store) {}, "none of the 2 IPPools"},
	} {
		t.Run(name, func(t *testing.T) {
			b := &fake.Backend{}
			s := store.New(b)
			if c.config != "" {
				settings(b, c.config)
			}
			c.prepare(t, s)
			i := &interfaces{}
			addr := netip.MustParseAddr(c.addr)
			i.set(addr, "h")
			log := &bytes.Buffer{}
			n := repairNode(t, s, i, log, pools...)
			n.tick()
			n.tick()
			n.kill()
			if got := n.Held("h"); (c.logged == "") != slices.Equal(got, []netip.Addr{addr}) {
				t.Errorf("h holds %v, want %s: %v", got, addr, c.logged == "")
			}
			if c.logged != "" && (strings.Count(log.String(), c.logged) != 1 || !strings.Contains(log.String(), "restart the pod")) {
				t.Errorf("log\n%s\nwant %q once", log, c.logged)
			}
		})
	}
}

// others gives two blocks to another node, one of them with an address in use.
func others(t *testing.T, s store.Store) {
	n := newNode(t, s, "other", ipPool("p", "10.0.0.0/24", 26))
	for _, r := range []ipam.Request{exactly("x", "10.0.0.1"), exactly("theirs", "10.0.0.64")} {
		if _, err := n.Assign(ctx(t), r); err != nil {
			t.Fatal(err)
		}
	}
	n.flush()
	n.kill()
}

// unlabelled makes an address that this node borrowed before its handles had labels.
func unlabelled(t *testing.T, s store.Store) {
	others(t, s)
	o, err := s.Blocks.Get(ctx(t), "10-0-0-0-26")
	if err != nil {
		t.Fatal(err)
	}
	b, err := block.Parse(&o.Spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.AssignIP(netip.MustParseAddr("10.0.0.5"), block.Owner{Handle: "h", Attrs: map[string]string{"node": "n1"}}); err != nil {
		t.Fatal(err)
	}
	o.Spec = *b.Spec()
	if _, err := s.Blocks.Update(ctx(t), o); err != nil {
		t.Fatal(err)
	}
}

// TestInUseIsNotGivenAway shows that an address which an interface has is given to
// its own handle only, whatever the blocks say.
func TestInUseIsNotGivenAway(t *testing.T) {
	s := store.New(&fake.Backend{})
	i := &interfaces{}
	n := repairNode(t, s, i, nil, ipPool("p", "10.0.0.0/30", 30))
	n.assign("first") // 10.0.0.0
	used := netip.MustParseAddr("10.0.0.1")
	i.set(used, "old")
	for _, want := range []string{"10.0.0.2", "10.0.0.3"} {
		if got := n.assign(want); got.String() != want {
			t.Errorf("assigned %s, want %s", got, want)
		}
	}
	if _, err := n.Assign(ctx(t), request("more")); !errors.As(err, new(*ipam.PoolFullError)) {
		t.Errorf("Assign = %v, want a PoolFullError: the last address is in use", err)
	}
	var refused *ipam.AddrError
	if _, err := n.Assign(ctx(t), exactly("more", "10.0.0.1")); !errors.As(err, &refused) || !strings.Contains(err.Error(), "for handle old") {
		t.Errorf("Assign = %v, want an AddrError that names the handle", err)
	}
	if got := n.assign("old"); got != used {
		t.Errorf("old gets %s, its interface has %s", got, used)
	}
	n.flush()
	audit(t, s)
}

// TestReleasedIsNotRepaired releases a handle whose interface is still there.
func TestReleasedIsNotRepaired(t *testing.T) {
	s := store.New(&fake.Backend{})
	i := &interfaces{}
	n := repairNode(t, s, i, nil, ipPool("p", "10.0.0.0/29", 29))
	addr := n.assign("h")
	i.set(addr, "h")
	n.release("h")
	n.tick()
	if got := n.Held("h"); got != nil {
		t.Errorf("h holds %v after its release", got)
	}
	i.set(addr, "")
	n.tick()
	if got := n.assign("h"); got == addr {
		t.Errorf("%s is assigned again at once", got)
	}
	i.set(addr, "h2") // and what has not been released is
	n.tick()
	if got := n.Held("h2"); !slices.Equal(got, []netip.Addr{addr}) {
		t.Errorf("h2 holds %v, its interface has %s", got, addr)
	}
	n.flush()
	audit(t, s)
}
