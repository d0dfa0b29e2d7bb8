package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/test/lab/layout"
)

// runEnv makes the test binary a process that does nothing but run a guest with the
// card that its value names, which says that it began and then does not end.
const runEnv = "MANX_VM_TEST_RUN"

func TestMain(m *testing.M) {
	if nic, ok := os.LookupEnv(runEnv); ok {
		ns, bridge, _ := strings.Cut(nic, ":")
		_, err := Run(context.Background(), Options{
			Args: []string{"sh", "-c", "echo began; sleep 1000"}, Dir: "/", Memory: 1024, Timeout: 5 * time.Minute,
			Stdout: os.Stdout, NICs: []NIC{{NetNS: ns, Bridge: bridge}},
		})
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// process is the test binary as such a process. It dies with the calling thread.
func process(n NIC) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), runEnv+"="+n.String())
	return cmd
}

// nsPath is the file of a network namespace.
func nsPath(ns nltest.NS) string { return filepath.Join(layout.NetNSDir, string(ns)) }

// taps are the names of the namespace's tap devices.
func taps(t *testing.T, ns nltest.NS) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(ns.Run(t, "ip", "-o", "link", "show", "type", "tun")) {
		name, _, _ := strings.Cut(strings.Fields(line)[1], ":")
		names = append(names, name)
	}
	return names
}

// TestPlugIn looks at the end of a card that is on the host.
func TestPlugIn(t *testing.T) {
	ns := nltest.NewNS(t)
	const mtu = 8000
	// Nothing but its ports says this bridge's MTU: one of less would lower it.
	ns.Run(t, "ip", "link", "add", "br0", "type", "bridge")
	ns.Run(t, "ip", "link", "add", "p0", "mtu", fmt.Sprint(mtu), "type", "veth", "peer", "name", "p1", "mtu", fmt.Sprint(mtu))
	ns.Run(t, "ip", "link", "set", "p0", "master", "br0", "up")
	ns.Run(t, "ip", "link", "set", "br0", "up")
	ns.Run(t, "ip", "link", "add", "br1", "type", "bridge")

	cables, err := plugIn([]NIC{{nsPath(ns), "br0"}, {nsPath(ns), "br1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer unplug(cables)
	others, err := plugIn([]NIC{{nsPath(ns), "br0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer unplug(others)

	if got, want := taps(t, ns), []string{"guest_0", "guest_1", "guest_2"}; !slices.Equal(got, want) {
		t.Fatalf("taps %q, want %q", got, want)
	}
	for name, want := range map[string][]string{
		"guest_0": {"master br0", fmt.Sprintf("mtu %d", mtu), ",UP"},
		"guest_1": {"master br1", "mtu 1500", ",UP"},
		"guest_2": {"master br0", fmt.Sprintf("mtu %d", mtu), ",UP"},
		"br0":     {fmt.Sprintf("mtu %d", mtu)},
	} {
		link := ns.Run(t, "ip", "-o", "link", "show", "dev", name)
		for _, w := range want {
			if !strings.Contains(link, w) {
				t.Errorf("%s lacks %q: %s", name, w, link)
			}
		}
	}
	macs := addresses(append(cables, others...))
	if slices.Sort(macs); len(slices.Compact(macs)) != 3 {
		t.Errorf("two cards have one address: %q", macs)
	}
	for _, c := range cables {
		if c.mac[0]&3 != 2 {
			t.Errorf("%s is no locally administered address of one station", c.mac)
		}
	}

	unplug(cables)
	if got, want := taps(t, ns), []string{"guest_2"}; !slices.Equal(got, want) {
		t.Errorf("taps %q after two were unplugged, want %q", got, want)
	}
}

// TestPlugInRefused has what cannot be a card's other end; nothing stays of the card before it.
func TestPlugInRefused(t *testing.T) {
	ns, empty := nltest.NewNS(t), nltest.NewNS(t)
	for _, bridge := range []string{"br0", "br1"} {
		ns.Run(t, "ip", "link", "add", bridge, "type", "bridge")
	}
	ns.Run(t, "ip", "link", "add", "p0", "type", "veth", "peer", "name", "p1")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		nic  NIC
		want []string // in the error
	}{
		{"no namespace", NIC{"/run/netns/manx-test-none", "br0"}, []string{"/run/netns/manx-test-none", "no such file"}},
		{"a file that is no namespace", NIC{file, "br0"}, []string{file, "invalid argument"}},
		{"no such bridge", NIC{nsPath(ns), "br2"}, []string{nsPath(ns), `"br2"`, "br0, br1"}},
		{"no bridge at all", NIC{nsPath(empty), "br0"}, []string{"ip link add br0 type bridge"}},
		{"not a bridge", NIC{nsPath(ns), "p0"}, []string{`"p0"`, "br0, br1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cables, err := plugIn([]NIC{{nsPath(ns), "br0"}, tt.nic})
			if err == nil {
				unplug(cables)
				t.Fatal("it is plugged in")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
			if got := taps(t, ns); len(got) > 0 {
				t.Errorf("taps are left: %q", got)
			}
		})
	}
}

// TestNoTun hides /dev/net/tun from a process.
func TestNoTun(t *testing.T) {
	ns := nltest.NewNS(t)
	ns.Run(t, "ip", "link", "add", "br0", "type", "bridge")
	cmd := process(NIC{nsPath(ns), "br0"})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs tmpfs /dev/net && exec "$0"`, self}
	if cmd.Path, err = exec.LookPath("unshare"); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("the process ended well")
	}
	for _, want := range []string{"/dev/net/tun", "modprobe tun", "--device"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it says nothing of %s: %s", want, out)
		}
	}
}
