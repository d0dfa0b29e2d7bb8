package attachment

import (
	"regexp"
	"strings"
	"testing"
)

const id64 = "4f1c0000000000000000000000000000000000000000000000000000000000aa"

func TestSpelling(t *testing.T) {
	for _, tc := range []struct {
		id     ID
		handle string
	}{
		{ID{"k8s-pod-network", id64, "eth0"}, "k8s-pod-network." + id64}, // Calico's
		{ID{"k8s-pod-network", id64, ""}, "k8s-pod-network." + id64},
		{ID{"k8s-pod-network.blue", "a", "eth0"}, "k8s-pod-network.blue.a"},
		{ID{"k8s-pod-network", id64, "net1"}, "k8s-pod-network." + id64 + ".if-net1"},
		{ID{"a", "b.c", "eth0"}, "a.bx-2ec.if-eth0"},
		{ID{"a.b", "c", "eth0"}, "a.b.c"},
		{ID{"a", "if-x", "eth0"}, "a.ifx-2dx.if-eth0"},
		{ID{"a", "b", "Net_1"}, "a.b.if-x-4eetx-5f1"},
	} {
		if got := tc.id.Handle(); got != tc.handle {
			t.Errorf("%+v: %q, want %q", tc.id, got, tc.handle)
		}
		want := tc.id
		if want.IfName == "" {
			want.IfName = "eth0"
		}
		if got, ok := ParseAlias("manx:" + tc.handle); !ok || got != want {
			t.Errorf("%q: %+v %v, want %+v", tc.handle, got, ok, want)
		}
	}
	// What is no mark of ours, and what older versions wrote.
	for _, alias := range []string{"", "manx:", "manx:broken", "manx:.x", "manx:net.", "wl-1", "k8s-pod-network.a"} {
		if id, ok := ParseAlias(alias); ok {
			t.Errorf("%q: %+v", alias, id)
		}
	}
	if id, ok := ParseAlias("manx:a.b.c"); !ok || id != (ID{"a.b", "c", "eth0"}) {
		t.Errorf("an old alias: %+v %v", id, ok)
	}
}

// Every pair of names that differ in a field has handles that differ, as text and as
// the lower-case name of the object, which Kubernetes takes; and reading gives the
// same name back.
func TestNoTwoAreSpelledAlike(t *testing.T) {
	networks := []string{"a", "a.b", "a.b.c", "a.if-eth0", "k8s-pod-network", "k8s-pod-network.blue"}
	containers := []string{"a", "b", "c", "b.c", "c.if-eth0", "if-eth0", "x-2e", "bx-2ec", "b-c", "eth0", "b.if-net1", id64}
	names := []string{"eth0", "net1", "Net1", "x", "x-2e", "if-eth0", "b", "c", "ex", "é0", "a.b"}
	object := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`) // a DNS subdomain
	seen := map[string]ID{}
	for _, n := range networks {
		for _, c := range containers {
			for _, i := range names {
				id := ID{n, c, i}
				h := id.Handle()
				if got, ok := ParseHandle(h); !ok || got != id {
					t.Errorf("%+v is spelled %q, which reads %+v %v", id, h, got, ok)
				}
				if !object.MatchString(strings.ToLower(h)) {
					t.Errorf("%+v: %q is no object's name", id, h)
				}
				if other, taken := seen[strings.ToLower(h)]; taken {
					t.Errorf("%+v and %+v are both spelled %q", id, other, h)
				}
				seen[strings.ToLower(h)] = id
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("manx:a.b.c", "a", "b.c", "net1")
	f.Add("manx:a.bx-2ec.if-eth0", "a.b", "x-2e", "if-")
	f.Fuzz(func(t *testing.T, alias, network, container, ifName string) {
		if id, ok := ParseAlias(alias); ok && id.Alias() != alias && AliasPrefix+id.Short() != alias {
			t.Errorf("%q reads %+v, which is spelled neither way", alias, id)
		}
		if network == "" || container == "" || ifName == "" {
			return
		}
		id := ID{network, container, ifName}
		if got, ok := ParseAlias(id.Alias()); !ok || got != id {
			t.Errorf("%+v is spelled %q, which reads %+v", id, id.Alias(), got)
		}
	})
}
