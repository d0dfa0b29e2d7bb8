// Package nettest makes network namespaces for the tests of the CNI plugin: a
// node with an uplink and a default route, and pods without anything.
package nettest

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/manx-cni/manx/internal/testwait"
)

// Namespace is a named network namespace that ends with its test.
type Namespace struct {
	Name, Path string
	Handle     *netlink.Handle
}

// New makes a namespace under a random name.
func New(t testing.TB, kind string) *Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: the test makes network namespaces")
	}
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	n := &Namespace{Name: "manx-" + kind + "-" + hex.EncodeToString(random)}
	n.Path = filepath.Join("/run/netns", n.Name)
	command(t, "ip", "netns", "add", n.Name)
	t.Cleanup(n.delete)
	fd, err := netns.GetFromPath(n.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if n.Handle, err = netlink.NewHandleAt(fd); err != nil {
		t.Fatalf("open netlink in %s: %v", n.Name, err)
	}
	t.Cleanup(n.Handle.Close)
	return n
}

// Delete ends the namespace before the test does.
func (n *Namespace) Delete() { n.delete() }

func (n *Namespace) delete() { _ = exec.Command("ip", "netns", "del", n.Name).Run() }

// NewNode makes a namespace as a node has it: loopback with the address 10.99.0.1,
// an uplink, a default route, forwarding.
func NewNode(t testing.TB) *Namespace {
	t.Helper()
	n := New(t, "node")
	for _, line := range []string{
		"link set lo up",
		"address add 10.99.0.1/32 dev lo",
		"link add uplink type veth peer name fabric",
		"address add 192.168.77.1/24 dev uplink",
		"link set uplink up",
		"link set fabric up",
		"route add default via 192.168.77.2",
	} {
		n.IP(t, line)
	}
	n.Do(t, func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	})
	return n
}

// IP runs ip(8) in the namespace and returns what it prints.
func (n *Namespace) IP(t testing.TB, line string) string {
	t.Helper()
	return command(t, "ip", append([]string{"-n", n.Name}, strings.Fields(line)...)...)
}

// Do runs f on a thread in the namespace; what f starts, runs there too.
func (n *Namespace) Do(t testing.TB, f func()) {
	t.Helper()
	done := make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		fail := "the function did not return"
		defer func() { done <- fail }()
		fd, err := netns.GetFromPath(n.Path)
		if err == nil {
			err = netns.Set(fd)
			fd.Close()
		}
		if err != nil {
			fail = err.Error()
			return
		}
		f()
		fail = ""
	}()
	if fail := <-done; fail != "" {
		t.Fatalf("in namespace %s: %s", n.Name, fail)
	}
}

// Sysctl reads a file below /proc/sys/net of the namespace.
func (n *Namespace) Sysctl(t testing.TB, path string) string {
	t.Helper()
	var value string
	n.Do(t, func() {
		raw, err := os.ReadFile("/proc/sys/net/" + path)
		if err != nil {
			value = err.Error()
			return
		}
		value = strings.TrimSpace(string(raw))
	})
	return value
}

// SetSysctl writes one.
func (n *Namespace) SetSysctl(t testing.TB, path, value string) {
	t.Helper()
	n.Do(t, func() {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
			t.Errorf("set %s: %v", path, err)
		}
	})
}

// Link returns an interface of the namespace, nil when there is none.
func (n *Namespace) Link(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := n.Handle.LinkByName(name)
	if _, gone := err.(netlink.LinkNotFoundError); gone {
		return nil
	}
	if err != nil {
		t.Fatalf("read %s in %s: %v", name, n.Name, err)
	}
	return l
}

// Eventually waits for a condition.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	testwait.Until(t, 30*time.Second, what, ok)
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
