package layout

import (
	"strings"
	"testing"
)

func TestNewNames(t *testing.T) {
	for _, name := range []string{"manx", "a", "lab2", "abcdefghijklmnopqrst"} {
		if _, err := New(name); err != nil {
			t.Errorf("New(%q): %v", name, err)
		}
	}
	for _, name := range []string{"", "a-b", "A", "2lab", "a/b", "..", "a.b", "abcdefghijklmnopqrstu", "ü"} {
		if _, err := New(name); err == nil {
			t.Errorf("New(%q) is accepted", name)
		}
	}
}

// A lab is removed by its prefix, so no lab's prefix may begin another lab's name.
func TestPrefixesDoNotOverlap(t *testing.T) {
	names := []string{"a", "ab", "a1", "manx", "manx2"}
	for _, x := range names {
		for _, y := range names {
			a, _ := New(x)
			b, _ := New(y)
			if x != y && strings.HasPrefix(b.NetNS("node1"), a.NetNSPrefix()) {
				t.Errorf("namespaces of lab %s have the prefix of lab %s", y, x)
			}
		}
	}
}

func TestRootFromEnvironment(t *testing.T) {
	t.Setenv(RootEnv, "/somewhere/else")
	l, err := New("x")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := l.Disk("node1"), "/somewhere/else/x/machines/node1/disk"; got != want {
		t.Errorf("disk is %s, want %s", got, want)
	}
	if got, want := l.Log("node1", "kubelet"), "/somewhere/else/x/machines/node1/disk/var/log/kubelet.log"; got != want {
		t.Errorf("log is %s, want %s", got, want)
	}
}

func TestCheckNode(t *testing.T) {
	for _, name := range []string{"node1", "a", "rack-2", "tor", "torn1", "abcdefghijklmno"} {
		if err := CheckNode(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "control", "fabric", "outside", "router", "router1", "behind", "tor1", "rr12",
		"br0", "br1", "lo", "-a", "a-", "Node", "a.b", "abcdefghijklmnop"} {
		if CheckNode(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}
