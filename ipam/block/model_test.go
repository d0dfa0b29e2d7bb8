package block_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
)

var epoch = time.Unix(1_755_850_000, 123)

// model is the block as one would describe it in a sentence: who has which
// address, and the queue of the free ones.
type model struct {
	owner map[netip.Addr]string
	queue []netip.Addr
	// What other programs have entered: a second owner, and when an address
	// began to cool down, which makes it nobody's and not free.
	second, cooling map[netip.Addr]string
}

func newModel(b *block.Block) *model {
	m := &model{owner: map[netip.Addr]string{}, second: map[netip.Addr]string{}, cooling: map[netip.Addr]string{}}
	for i := range b.Size() {
		m.queue = append(m.queue, b.Addr(i))
	}
	return m
}

func (m *model) assign(handle string, n int) []netip.Addr {
	n = min(n, len(m.queue))
	if n == 0 {
		return nil
	}
	got := slices.Clone(m.queue[:n])
	m.queue = m.queue[n:]
	for _, a := range got {
		m.owner[a] = handle
	}
	return got
}

func (m *model) assignIP(addr netip.Addr, handle string) bool {
	i := slices.Index(m.queue, addr)
	if i < 0 {
		return false
	}
	m.queue = slices.Delete(m.queue, i, i+1)
	m.owner[addr] = handle
	return true
}

func (m *model) release(handle string) []netip.Addr {
	var freed []netip.Addr
	for a, h := range m.owner {
		if h == handle {
			freed = append(freed, a)
		}
	}
	slices.SortFunc(freed, netip.Addr.Compare)
	for _, a := range freed {
		m.free(a)
	}
	return freed
}

func (m *model) free(a netip.Addr) {
	delete(m.owner, a)
	delete(m.second, a)
	delete(m.cooling, a)
	m.queue = append(m.queue, a)
}

// foreign lets another program enter what Manx does not act on: for one of the
// owners a second one, or that its addresses cool down. It returns the block as
// it is read then.
func (m *model) foreign(t *testing.T, rng *rand.Rand, b *block.Block, step int) *block.Block {
	t.Helper()
	spec := b.Spec().DeepCopy()
	if len(spec.Attributes) == 0 {
		return b
	}
	i, note := rng.IntN(len(spec.Attributes)), fmt.Sprint(step)
	attr := &spec.Attributes[i]
	cools := rng.IntN(2) == 0 && attr.ReleasedAt == nil
	if cools {
		attr.ReleasedAt = &note
	} else {
		attr.AlternateOwnerAttrs = map[string]string{"pod": note}
	}
	for ordinal, index := range spec.Allocations {
		if index == nil || *index != i {
			continue
		}
		if addr := b.Addr(ordinal); cools {
			m.cooling[addr], m.owner[addr] = note, ""
		} else {
			m.second[addr] = note
		}
	}
	again, err := block.Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// TestAgainstModel drives a block and the model with the same random steps and
// compares what they say after each.
func TestAgainstModel(t *testing.T) {
	for _, cidr := range []string{
		"10.0.0.64/26", "10.0.0.8/29", "10.0.0.1/32", "10.1.240.0/20", "fd00::40/122", "fd00::ffff:ffff:ffff:f000/116",
	} {
		t.Run(cidr, func(t *testing.T) {
			for seed := range uint64(3) {
				rng := rand.New(rand.NewPCG(seed, 7))
				b, err := block.New(netip.MustParsePrefix(cidr), "n1", epoch)
				if err != nil {
					t.Fatal(err)
				}
				m := newModel(b)
				for step := range 60 {
					b = walk(t, rng, b, m, step)
					check(t, b, m)
				}
			}
		})
	}
}

// walk does one random step on both, and now and then stores and reloads the block.
func walk(t *testing.T, rng *rand.Rand, b *block.Block, m *model, step int) *block.Block {
	t.Helper()
	handle := fmt.Sprintf("k8s-pod-network.%d", rng.IntN(12))
	owner := block.Owner{Handle: handle, Attrs: map[string]string{"pod": handle}}
	if rng.IntN(3) == 0 {
		owner.Attrs["timestamp"] = fmt.Sprint(step) // makes an owner of its own
	}
	switch rng.IntN(8) {
	case 0, 1:
		n := rng.IntN(b.Size()/4 + 3)
		if got, want := b.Assign(owner, n, nil), m.assign(handle, n); !slices.Equal(got, want) {
			t.Fatalf("Assign(%d) = %v, want %v", n, got, want)
		}
	case 2:
		addr := b.Addr(rng.IntN(b.Size()))
		if got, want := b.AssignIP(addr, owner), m.assignIP(addr, handle); (got == nil) != want {
			t.Fatalf("AssignIP(%s) = %v, want success %v", addr, got, want)
		}
	case 3:
		if got, want := b.ReleaseHandle(handle), m.release(handle); !slices.Equal(got, want) {
			t.Fatalf("ReleaseHandle = %v, want %v", got, want)
		}
	case 4:
		addr := b.Addr(rng.IntN(b.Size()))
		err := b.Release(addr, block.Expect{Handle: &handle})
		if held := m.owner[addr] == handle; (err == nil) != held {
			t.Fatalf("Release(%s, %s) = %v, held %v", addr, handle, err, held)
		} else if held {
			m.free(addr)
		}
	case 5:
		return reload(t, b)
	case 6:
		return m.foreign(t, rng, b, step)
	case 7:
		from := b.Addr(rng.IntN(b.Size())) // whoever has them: all from here on that do not cool down
		var want []netip.Addr
		for a, h := range m.owner {
			if h != "" && !a.Less(from) {
				want = append(want, a)
			}
		}
		slices.SortFunc(want, netip.Addr.Compare)
		if got := b.ReleaseFunc(func(e block.Entry) bool { return !e.CoolingDown && !e.Addr.Less(from) }); !slices.Equal(got, want) {
			t.Fatalf("ReleaseFunc = %v, want %v", got, want)
		}
		for _, a := range want {
			m.free(a)
		}
	}
	b.NextSequence()
	return b
}

// reload sends a block through JSON, as the API server does.
func reload(t *testing.T, b *block.Block) *block.Block {
	t.Helper()
	text, err := json.Marshal(b.Spec())
	if err != nil {
		t.Fatal(err)
	}
	var spec v1.IPAMBlockSpec
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	again, err := block.Parse(&spec)
	if err != nil {
		t.Fatalf("a block that was made by the algebra does not parse: %v", err)
	}
	if diff := cmp.Diff(b.Spec().Unallocated, again.Spec().Unallocated); diff != "" {
		t.Fatalf("reload changes the queue (-before +after):\n%s", diff)
	}
	return again
}

// check compares everything the block says with the model, and the block's three
// lists with one another.
func check(t *testing.T, b *block.Block, m *model) {
	t.Helper()
	if b.Used() != len(m.owner) || b.Free() != len(m.queue) || b.Used()+b.Free() != b.Size() {
		t.Fatalf("used %d free %d of %d, want %d and %d", b.Used(), b.Free(), b.Size(), len(m.owner), len(m.queue))
	}
	want := map[string][]netip.Addr{}
	for a, h := range m.owner {
		if h != "" {
			want[h] = append(want[h], a)
		}
	}
	for _, addrs := range want {
		slices.SortFunc(addrs, netip.Addr.Compare)
	}
	if got := b.ByHandle(); !maps.EqualFunc(got, want, slices.Equal) {
		t.Fatalf("ByHandle = %v, want %v", got, want)
	}
	for e := range b.Entries() {
		if _, cools := m.cooling[e.Addr]; cools != e.CoolingDown || !cools && m.owner[e.Addr] != e.Handle {
			t.Fatalf("entry %+v, want owner %q, cooling down %v", e, m.owner[e.Addr], cools)
		}
		if e.Sequence < epoch.UnixNano() || e.Sequence > b.Spec().SequenceNumber {
			t.Fatalf("entry %+v, want a sequence number of this block", e)
		}
		if got, ok := b.Holder(e.Addr); !ok || got.Addr != e.Addr || got.Handle != e.Handle ||
			got.Sequence != e.Sequence || got.CoolingDown != e.CoolingDown {
			t.Fatalf("Holder(%s) = %+v, %v, want %+v", e.Addr, got, ok, e)
		}
	}
	for i, a := range m.queue {
		if _, taken := b.Holder(a); taken || i < len(b.Spec().Unallocated) && b.Addr(b.Spec().Unallocated[i]) != a {
			t.Fatalf("%s is number %d of those that are free; the block says %v, taken %v", a, i, b.Spec().Unallocated, taken)
		}
	}
	for ordinal, index := range b.Spec().Allocations {
		if index == nil {
			continue
		}
		attr, addr := b.Spec().Attributes[*index], b.Addr(ordinal)
		if attr.AlternateOwnerAttrs["pod"] != m.second[addr] || attr.ReleasedAt != nil && *attr.ReleasedAt != m.cooling[addr] {
			t.Fatalf("%s has %+v, want second owner %q and released at %q", addr, attr, m.second[addr], m.cooling[addr])
		}
	}
	used := make([]int, len(b.Spec().Attributes))
	for _, index := range b.Spec().Allocations {
		if index != nil {
			used[*index]++
		}
	}
	for i, n := range used {
		if n == 0 {
			t.Fatalf("attribute %d (%+v) is used by no address", i, b.Spec().Attributes[i])
		}
		for j := range i {
			if cmp.Equal(b.Spec().Attributes[i], b.Spec().Attributes[j]) {
				t.Fatalf("attributes %d and %d are equal", i, j)
			}
		}
	}
	if len(b.Spec().SequenceNumberForAllocation) != b.Used() {
		t.Fatalf("%d sequence numbers for %d addresses", len(b.Spec().SequenceNumberForAllocation), b.Used())
	}
	if _, err := block.Parse(b.Spec()); err != nil {
		t.Fatal(err)
	}
}

// TestReleaseBySequence shows that who saw an old assignment cannot free a new
// one of the same address, also when the handle is the same.
func TestReleaseBySequence(t *testing.T) {
	b := newBlock(t, "10.0.0.1/32")
	addr, handle := netip.MustParseAddr("10.0.0.1"), "h"
	seen := func() int64 {
		for e := range b.Entries() {
			return e.Sequence
		}
		t.Fatal("nothing is assigned")
		return 0
	}
	b.Assign(block.Owner{Handle: handle}, 1, nil)
	first := seen()
	b.NextSequence()
	b.ReleaseHandle(handle)
	b.NextSequence()
	b.Assign(block.Owner{Handle: handle}, 1, nil)
	second := seen()
	other := "other"
	for name, c := range map[string]struct {
		addr string
		want block.Expect
		err  error
	}{
		"old sequence":   {"10.0.0.1", block.Expect{Handle: &handle, Sequence: &first}, block.ErrNotHeld},
		"other handle":   {"10.0.0.1", block.Expect{Handle: &other, Sequence: &second}, block.ErrNotHeld},
		"other block":    {"10.0.0.2", block.Expect{}, block.ErrNotInBlock},
		"zoned IPv6":     {"fe80::1%eth0", block.Expect{}, block.ErrNotInBlock},
		"IPv4 in IPv6":   {"::ffff:10.0.0.1", block.Expect{}, block.ErrNotInBlock},
		"other sequence": {"10.0.0.1", block.Expect{Sequence: new(int64)}, block.ErrNotHeld},
	} {
		if err := b.Release(netip.MustParseAddr(c.addr), c.want); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
	if err := b.Release(addr, block.Expect{Handle: &handle, Sequence: &second}); err != nil {
		t.Fatal(err)
	}
	if err := b.Release(addr, block.Expect{}); !errors.Is(err, block.ErrNotHeld) {
		t.Errorf("second release: %v, want %v", err, block.ErrNotHeld)
	}
}

// TestReservedKeepPlace shows that reserved addresses are not assigned and are
// first in the queue again once they are not reserved.
func TestReservedKeepPlace(t *testing.T) {
	b := newBlock(t, "10.0.0.0/29")
	reserved := netip.MustParsePrefix("10.0.0.0/30")
	if n := b.Available(reserved.Contains); n != 4 {
		t.Fatalf("Available = %d, want 4", n)
	}
	got := b.Assign(block.Owner{Handle: "a"}, 8, reserved.Contains)
	if want := addrs("10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"); !slices.Equal(got, want) {
		t.Fatalf("Assign = %v, want %v", got, want)
	}
	b.ReleaseHandle("a")
	want := addrs("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4")
	if got := b.Assign(block.Owner{Handle: "b"}, 5, nil); !slices.Equal(got, want) {
		t.Fatalf("Assign = %v, want %v", got, want)
	}
}

func newBlock(t *testing.T, cidr string) *block.Block {
	t.Helper()
	b, err := block.New(netip.MustParsePrefix(cidr), "n1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}
