package v1

import (
	"fmt"
	"strings"
	"testing"
)

// TestBlockAffinityReading: the agents, the controllers, the allocator and manxctl read an
// affinity alike.
func TestBlockAffinityReading(t *testing.T) {
	good := BlockAffinitySpec{State: AffinityConfirmed, Node: "n", Type: AffinityTypeHost, CIDR: "10.0.0.64/26", Deleted: "false"}
	const none = " invalid Prefix confirmed"
	for _, tc := range []struct {
		name   string
		change func(*BlockAffinitySpec)
		want   string // node, block, state, and deleted and virtual when they are
		err    string
	}{
		{"confirmed", func(*BlockAffinitySpec) {}, "n 10.0.0.64/26 confirmed", ""},
		{"IPv6", func(s *BlockAffinitySpec) { s.CIDR = "fd00::40/122" }, "n fd00::40/122 confirmed", ""},
		{"pending", func(s *BlockAffinitySpec) { s.State = AffinityPending }, "n 10.0.0.64/26 pending", ""},
		{"leaving", func(s *BlockAffinitySpec) { s.State = AffinityPendingDeletion }, "n 10.0.0.64/26 pendingDeletion", ""},
		{"of an old object", func(s *BlockAffinitySpec) { s.State, s.Type, s.Deleted = "", "", "" }, "n 10.0.0.64/26 confirmed", ""},
		{"unknown state", func(s *BlockAffinitySpec) { s.State = "Confirmed" }, "n 10.0.0.64/26 Confirmed", ""},
		{"deleted", func(s *BlockAffinitySpec) { s.Deleted = "true" }, "n 10.0.0.64/26 confirmed deleted", ""},
		{"deleted is written in lower case", func(s *BlockAffinitySpec) { s.Deleted = "True" }, "n 10.0.0.64/26 confirmed", ""},
		{"virtual", func(s *BlockAffinitySpec) { s.Type = AffinityTypeVirtual }, "n 10.0.0.64/26 confirmed virtual", ""},
		{"unknown type", func(s *BlockAffinitySpec) { s.Type = "Host" }, "n 10.0.0.64/26 confirmed virtual", ""},
		{"no node", func(s *BlockAffinitySpec) { s.Node = "" }, none, "spec.node is empty"},
		{"no range", func(s *BlockAffinitySpec) { s.CIDR = "10.0.0.64" }, none, `spec.cidr "10.0.0.64": want`},
		{"empty range", func(s *BlockAffinitySpec) { s.CIDR = "" }, none, `spec.cidr "": want`},
		{"host bits", func(s *BlockAffinitySpec) { s.CIDR = "10.0.0.65/26" }, none, `spec.cidr "10.0.0.65/26": want`},
		{"mapped", func(s *BlockAffinitySpec) { s.CIDR = "::ffff:10.0.0.64/122" }, none, "spec.cidr"},
		{"deleted and malformed", func(s *BlockAffinitySpec) { s.CIDR, s.Deleted = "junk", "true" }, none + " deleted", "spec.cidr"},
		{"virtual and malformed", func(s *BlockAffinitySpec) { s.CIDR, s.Type = "junk", "virtual" }, none + " virtual", "spec.cidr"},
		{"long", func(s *BlockAffinitySpec) { s.CIDR = strings.Repeat("1", 1<<16) }, none, `1": want`},
	} {
		a := BlockAffinity{Spec: good}
		tc.change(&a.Spec)
		node, block, err := a.Claim()
		got := fmt.Sprintf("%s %s %s", node, block, a.State())
		if a.Deleted() {
			got += " deleted"
		}
		if a.Virtual() {
			got += " virtual"
		}
		if got != tc.want || (err != nil) != (tc.err != "") || err != nil && (!strings.Contains(err.Error(), tc.err) || len(err.Error()) > 200) {
			t.Errorf("%s: %q, %v; want %q, %q", tc.name, got, err, tc.want, tc.err)
		}
		if got := a.State().Confirmed(); got != strings.Contains(tc.want, " confirmed") {
			t.Errorf("%s: confirmed %t", tc.name, got)
		}
	}
	a := BlockAffinity{Spec: good}
	if a.SetDeleted(); !a.Deleted() {
		t.Error("marked as deleted, and not deleted")
	}
}

// TestBlockRange: what a block takes up is read as widely as it can be.
func TestBlockRange(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.64/26": "10.0.0.64/26", "10.0.0.65/26": "10.0.0.64/26", "fd00::41/122": "fd00::40/122",
		"::ffff:10.0.0.65/122": "10.0.0.64/26", "::ffff:10.0.0.0/90": "::ffc0:0:0/90", "10.0.0.64": "", "": "", "10.0.0.0/33": "",
	} {
		b := IPAMBlock{Spec: IPAMBlockSpec{CIDR: text}}
		got, err := b.Range()
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q: %s, %v; want %q", text, got, err, want)
		}
	}
	host, virtual := HostAffinity("n"), "virtual:n"
	for affinity, want := range map[*string]bool{nil: false, &host: true, &virtual: false} {
		b := IPAMBlock{Spec: IPAMBlockSpec{Affinity: affinity}}
		if b.OwnedBy("n") != want || b.OwnedBy("") {
			t.Errorf("affinity %v: owned %t, want %t", affinity, !want, want)
		}
	}
}

// TestHandleCounts: an entry that names no block does not hide the others.
func TestHandleCounts(t *testing.T) {
	h := IPAMHandle{Spec: IPAMHandleSpec{Block: map[string]int{
		"10.0.0.64/26": 2, "fd00::40/122": 1, "FD00::40/122": 3, "10.0.1.0/26": 0,
		"junk": 1, "10.0.0.65/26": 1, "::ffff:10.0.0.64/122": 1, "": 1,
	}}}
	counts, err := h.Counts()
	if got, want := fmt.Sprint(counts), "map[10.0.0.64/26:2 10.0.1.0/26:0 fd00::40/122:4]"; got != want {
		t.Errorf("counts %s, want %s", got, want)
	}
	errs, ok := err.(interface{ Unwrap() []error })
	if !ok || len(errs.Unwrap()) != 4 {
		t.Errorf("%v: want four entries", err)
	}
	if counts, err := new(IPAMHandle).Counts(); counts == nil || len(counts) != 0 || err != nil {
		t.Errorf("of an empty handle: %v, %v", counts, err)
	}
}
