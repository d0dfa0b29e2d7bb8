package nltest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/manx-cni/manx/internal/testwait"
)

// The first thread's namespace is that of the process to others, /proc/PID/ns/net: it is
// left where it is.
func init() { runtime.LockOSThread() }

// insideEnv marks the process that runs inside its own network namespace.
const insideEnv = "MANX_TEST_IN_NETNS"

// Main runs a package's tests in a network namespace of their own, by starting
// the test binary again inside one: every goroutine and every program they
// start is in it, and nothing of the machine's own network can be touched. It
// ends the process.
func Main(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		if err := setUp("lo"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces: run them as root")
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "tests in a network namespace: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Name makes a name that nothing else on the machine has.
func Name(prefix string) string {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // never fails on Linux
	}
	return prefix + hex.EncodeToString(b[:])
}

// Run runs a program and returns what it printed; the test fails when it does.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := TryRun(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// TryRun runs a program and returns what it printed; what it printed to standard
// error only when it failed. ip(8) complains there of peers in namespaces that have no
// name for each other, and shows the link all the same.
func TryRun(name string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		stdout.Write(stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), err
}

// NS is a named network namespace beside the test's own.
type NS string

// NewNS makes a namespace that goes away with the test.
func NewNS(t testing.TB) NS {
	t.Helper()
	name := Name("manx-test-")
	err := onThread(func() error {
		h, err := netns.NewNamed(name)
		if err != nil {
			return err
		}
		defer h.Close()
		return setUp("lo")
	})
	if err != nil {
		t.Fatalf("make namespace %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := netns.DeleteNamed(name); err != nil {
			t.Errorf("delete namespace %s: %v", name, err)
		}
	})
	return NS(name)
}

// onThread calls f on a thread that f may move to another network namespace, and moves
// it back: a thread that ended would take with it the programs that it has started with a
// parent-death signal. A program for that, ip netns exec, takes ten times as long.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open the test's own namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if back := netns.Set(home); back != nil { // the thread ends with the goroutine
			done <- errors.Join(err, fmt.Errorf("return to the test's own namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// do calls f on a thread in the namespace; programs that f starts are in it, with the
// /sys of this process.
func (n NS) do(f func() error) error {
	return onThread(func() error {
		h, err := netns.GetFromName(string(n))
		if err != nil {
			return fmt.Errorf("open namespace %s: %w", n, err)
		}
		defer h.Close()
		if err := netns.Set(h); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n, err)
		}
		return f()
	})
}

// setUp sets up an interface of the calling thread's namespace.
func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	return nil
}

// Run runs a program in the namespace and returns what it printed; the test fails when
// it does.
func (n NS) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := n.Try(args...)
	if err != nil {
		t.Fatalf("in %s: %s: %v: %s", n, strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs a program in the namespace.
func (n NS) Try(args ...string) (out string, err error) {
	err = n.do(func() error {
		out, err = TryRun(args[0], args[1:]...)
		return err
	})
	return out, err
}

// Command prepares a program to run in the namespace.
func (n NS) Command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", string(n)}, args...)...)
}

// Veth makes a pair with one end here, up, and the other in the namespace, up.
func (n NS) Veth(t testing.TB, here, there string) {
	t.Helper()
	h, err := netns.GetFromName(string(n))
	if err != nil {
		t.Fatalf("open namespace %s: %v", n, err)
	}
	defer h.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: there, PeerNamespace: netlink.NsFd(h)}
	veth.Name = here
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("make the pair %s and %s of namespace %s: %v", here, there, n, err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) }) // may be gone already
	if err := errors.Join(setUp(here), n.do(func() error { return setUp(there) })); err != nil {
		t.Fatal(err)
	}
}

// eventually is far more than anything here takes; a busy machine gets its turn late.
const eventually = 30 * time.Second

// Eventually waits for a condition and fails the test when it does not come.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	testwait.Until(t, eventually, what, ok)
}

// Reaches waits until an echo request is answered; args are ping's, such as the address.
// The first may be lost: the kernel takes its time to make a route to a new address of
// its own (IPv6), and a busy one to find a neighbour.
func Reaches(t testing.TB, args ...string) {
	t.Helper()
	reaches(t, TryRun, args)
}

// Reaches is the function Reaches from the namespace.
func (n NS) Reaches(t testing.TB, args ...string) {
	t.Helper()
	reaches(t, func(name string, args ...string) (string, error) { return n.Try(append([]string{name}, args...)...) }, args)
}

func reaches(t testing.TB, try func(name string, args ...string) (string, error), args []string) {
	t.Helper()
	Eventually(t, "an answer to ping "+strings.Join(args, " "), func() bool {
		_, err := try("ping", append([]string{"-n", "-c1", "-W5"}, args...)...)
		return err == nil
	})
}

// Monitor collects what "ip monitor" prints until the test, or Stop, ends it.
type Monitor struct {
	cmd *exec.Cmd
	out bytes.Buffer
}

// NewMonitor starts "ip monitor objects…" and waits until it listens.
func NewMonitor(t testing.TB, object string) *Monitor {
	t.Helper()
	m := &Monitor{cmd: exec.Command("ip", "monitor", object)}
	m.cmd.Stdout = &m.out // what goes to stderr may be about namespaces of other tests
	if err := m.cmd.Start(); err != nil {
		t.Fatalf("ip monitor: %v", err)
	}
	t.Cleanup(func() { m.Stop() })
	// A process that listens has a netlink socket with a multicast group.
	Eventually(t, "ip monitor is listening", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/netlink", m.cmd.Process.Pid))
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 3 && f[2] == fmt.Sprint(m.cmd.Process.Pid) && strings.Trim(f[3], "0") != "" {
				return true
			}
		}
		return false
	})
	return m
}

// Stop ends the monitor and returns what it printed, without the routes that the kernel
// makes by itself: it does so in its own time, such as for a link-local address.
func (m *Monitor) Stop() string {
	if m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
		_ = m.cmd.Wait() // ended by a signal: always an error
	}
	var out strings.Builder
	for line := range strings.Lines(m.out.String()) {
		if !strings.Contains(line, " proto kernel ") {
			out.WriteString(line)
		}
	}
	return out.String()
}
