package block_test

import (
	"encoding/json"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
)

// foreign is a block as another program may have written it: an owner without a
// handle, a live migration, an address cooling down, and no sequence numbers.
const foreign = `{
	"cidr": "10.0.0.0/29", "affinity": "host:n1", "affinityClaimTime": "2026-08-22T10:00:00Z", "strictAffinity": false,
	"allocations": [0, 1, 2, null, null, null, null, null], "unallocated": [3, 4, 5, 6, 7],
	"attributes": [
		{"handle_id": null, "secondary": {"type": "x"}},
		{"handle_id": "mover", "secondary": {"pod": "a"}, "alternateOwnerAttrs": {"pod": "b"}},
		{"handle_id": "gone", "releasedAt": "2026-08-22T10:00:00.123456Z"}
	],
	"sequenceNumber": 7
}`

func decode(t testing.TB, text string) *v1.IPAMBlockSpec {
	t.Helper()
	var spec v1.IPAMBlockSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	return &spec
}

// TestForeignFieldsSurvive shows that what Manx does not act on is neither lost
// nor changed when it assigns and releases around it.
func TestForeignFieldsSurvive(t *testing.T) {
	before := decode(t, foreign)
	b, err := block.Parse(before)
	if err != nil {
		t.Fatal(err)
	}
	b.Assign(block.Owner{Handle: "mine", Attrs: map[string]string{"pod": "p"}}, 2, nil)
	if got := b.ReleaseHandle("gone"); got != nil {
		t.Errorf("released %v, which are cooling down and not the handle's any more", got)
	}
	b.ReleaseHandle("mine")
	text, err := json.Marshal(b.Spec())
	if err != nil {
		t.Fatal(err)
	}
	after := decode(t, string(text))
	if diff := cmp.Diff(before.Attributes, after.Attributes); diff != "" {
		t.Errorf("attributes changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(before.Allocations, after.Allocations); diff != "" {
		t.Errorf("allocations changed (-before +after):\n%s", diff)
	}
	if !after.AffinityClaimTime.Equal(before.AffinityClaimTime) || b.Owner() != "n1" || !b.OwnedBy("n1") {
		t.Errorf("ownership changed: %+v", after)
	}
	if got := b.ByHandle(); len(got) != 1 || len(got["mover"]) != 1 {
		t.Errorf("ByHandle = %v, want only mover", got)
	}
	if b.Used() != 3 {
		t.Errorf("used %d, want 3: a cooling-down address is not free", b.Used())
	}
}

// TestParseRefuses lists what would lead to a double assignment or a panic.
func TestParseRefuses(t *testing.T) {
	one, far, minus := 0, 3, -1
	for _, c := range []struct {
		name, want string
		change     func(*v1.IPAMBlockSpec)
	}{
		{"no cidr", "spec.cidr", func(s *v1.IPAMBlockSpec) { s.CIDR = "" }},
		{"host bits", "host bits", func(s *v1.IPAMBlockSpec) { s.CIDR = "10.0.0.1/29" }},
		{"mapped", "not a block", func(s *v1.IPAMBlockSpec) { s.CIDR = "::ffff:10.0.0.0/125" }},
		{"huge", "at most", func(s *v1.IPAMBlockSpec) { s.CIDR = "0.0.0.0/0"; s.Allocations = nil }},
		{"other size", "allocations: has 8 entries", func(s *v1.IPAMBlockSpec) { s.CIDR = "10.0.0.0/28" }},
		{"no allocations", "has 0 entries", func(s *v1.IPAMBlockSpec) { s.Allocations = nil }},
		{"attribute too far", "attribute 3 does not exist", func(s *v1.IPAMBlockSpec) { s.Allocations[0] = &far }},
		{"attribute negative", "attribute -1 does not exist", func(s *v1.IPAMBlockSpec) { s.Allocations[0] = &minus }},
		{"ordinal too far", "ordinal 8, want 0 to 7", func(s *v1.IPAMBlockSpec) { s.Unallocated[0] = 8 }},
		{"ordinal negative", "ordinal -1", func(s *v1.IPAMBlockSpec) { s.Unallocated[0] = -1 }},
		{"free twice", "ordinal 3 is listed twice", func(s *v1.IPAMBlockSpec) { s.Unallocated[1] = 3 }},
		{"free and taken", "ordinal 3 is allocated", func(s *v1.IPAMBlockSpec) { s.Allocations[3] = &one }},
		{"sequence at the end", "sequenceNumber", func(s *v1.IPAMBlockSpec) { s.SequenceNumber = math.MaxInt64 }},
	} {
		spec := decode(t, foreign)
		c.change(spec)
		if _, err := block.Parse(spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
	spec := decode(t, foreign)
	spec.Allocations[0], spec.Unallocated[0] = &far, 9
	if _, err := block.Parse(spec); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two problems are reported as %v", err)
	}
}

// TestHost lists whose a block may be.
func TestHost(t *testing.T) {
	for affinity, want := range map[string]string{"host:n1": "n1", "virtual:load-balancer": "", "host:": "", "n1": "", "": ""} {
		spec := decode(t, foreign)
		if spec.Affinity = &affinity; affinity == "" {
			spec.Affinity = nil
		}
		b, err := block.Parse(spec)
		if err != nil {
			t.Fatal(err)
		}
		if node, ok := b.Host(); node != want || ok != (affinity == "host:n1" || affinity == "host:") {
			t.Errorf("%q: Host = %q, %v, want %q", affinity, node, ok, want)
		}
	}
}

// TestLostOrdinal shows that a free address missing from unallocated is never
// assigned and does no harm.
func TestLostOrdinal(t *testing.T) {
	spec := decode(t, foreign)
	spec.Unallocated = spec.Unallocated[1:]
	b, err := block.Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range b.Assign(block.Owner{Handle: "h"}, 8, nil) {
		if a == b.Addr(3) {
			t.Errorf("assigned %s, which the queue does not list", a)
		}
	}
	if err := b.AssignIP(b.Addr(3), block.Owner{Handle: "h"}); err == nil {
		t.Error("assigned a lost address by name")
	}
}

// FuzzParse feeds objects as anybody could write them. Whatever parses must keep
// the promises of the algebra.
func FuzzParse(f *testing.F) {
	f.Add([]byte(foreign))
	f.Add([]byte(`{"cidr":"fd00::/126","allocations":[null,null,0,null],"unallocated":[3,0,1],"attributes":[{}]}`))
	f.Add([]byte(`{"cidr":"10.0.0.0/30","allocations":[1,1,1,1],"unallocated":[],"attributes":[{},{"handle_id":"h"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var spec v1.IPAMBlockSpec
		if json.Unmarshal(text, &spec) != nil {
			return
		}
		b, err := block.Parse(&spec)
		if err != nil {
			return
		}
		taken := map[netip.Addr]bool{}
		for e := range b.Entries() {
			taken[e.Addr] = true
		}
		free := b.Free()
		got := b.Assign(block.Owner{Handle: "fuzz"}, b.Size(), nil)
		if len(got) != free || b.Free() != 0 {
			t.Fatalf("assigned %d of %d free addresses", len(got), free)
		}
		for _, a := range got {
			if taken[a] || !b.CIDR().Contains(a) {
				t.Fatalf("assigned %s, which is taken or outside %s", a, b.CIDR())
			}
			taken[a] = true
		}
		b.ReleaseHandle("fuzz")
		if _, err := block.Parse(b.Spec()); err != nil {
			t.Fatalf("after assigning and releasing: %v", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for _, cidr := range []netip.Prefix{
		{}, netip.MustParsePrefix("10.0.0.1/26"), netip.MustParsePrefix("10.0.0.0/19"), netip.MustParsePrefix("fd00::/115"),
	} {
		if _, err := block.New(cidr, "n1", epoch); err == nil {
			t.Errorf("New(%s) succeeds", cidr)
		}
	}
}
