package nltest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// insideEnv marks the process that runs inside its own network namespace.
const insideEnv = "MANX_TEST_IN_NETNS"

// Main runs a package's tests in a network namespace of their own, by starting
// the test binary again inside one: every goroutine and every program they
// start is in it, and nothing of the machine's own network can be touched. It
// ends the process.
func Main(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "set up lo: %v: %s\n", err, out)
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
	Run(t, "ip", "netns", "add", name)
	t.Cleanup(func() {
		if out, err := TryRun("ip", "netns", "del", name); err != nil {
			t.Errorf("delete namespace %s: %v: %s", name, err, out)
		}
	})
	ns := NS(name)
	ns.Run(t, "ip", "link", "set", "lo", "up")
	return ns
}

// Run runs a program in the namespace.
func (n NS) Run(t testing.TB, args ...string) string {
	t.Helper()
	return Run(t, "ip", append([]string{"netns", "exec", string(n)}, args...)...)
}

// Try runs a program in the namespace.
func (n NS) Try(args ...string) (string, error) {
	return TryRun("ip", append([]string{"netns", "exec", string(n)}, args...)...)
}

// Command prepares a program to run in the namespace.
func (n NS) Command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", string(n)}, args...)...)
}

// Veth makes a pair with one end here, up, and the other in the namespace, up.
func (n NS) Veth(t testing.TB, here, there string) {
	t.Helper()
	Run(t, "ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", string(n))
	t.Cleanup(func() { _, _ = TryRun("ip", "link", "del", here) }) // may be gone already
	Run(t, "ip", "link", "set", here, "up")
	n.Run(t, "ip", "link", "set", there, "up")
}

// eventually is far more than anything here takes; a busy machine gets its turn late.
const eventually = 30 * time.Second

// Eventually waits for a condition and fails the test when it does not come.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(eventually)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", eventually, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
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
