package sweep_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/netns"
	"github.com/manx-cni/manx/test/lab/proc"
	"github.com/manx-cni/manx/test/lab/sweep"
)

// newLab is a lab under a random name, in a temporary directory, swept at the end.
func newLab(t *testing.T) layout.Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces; run it as root")
	}
	b := make([]byte, 5)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	t.Setenv(layout.RootEnv, filepath.Join(t.TempDir(), "labs"))
	l, err := layout.New("s" + hex.EncodeToString(b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sweep.Lab(context.Background(), l); err != nil { // The test's own context has ended by now.
			t.Error(err)
		}
	})
	return l
}

// Machines on a fabric reach each other; a sweep removes the fabric, what runs in
// it, cgroups and files, and can be repeated.
func TestFabricAndSweep(t *testing.T) {
	l := newLab(t)
	if err := os.MkdirAll(l.Disk("node1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := fabric.Create(l); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"node1", "node2"} {
		if err := fabric.Attach(l, name, fabric.Addr(11+i), true); err != nil {
			t.Fatal(err)
		}
	}
	connect(t, l)

	// A power cycle gives the machine a new namespace on the old port name.
	if err := fabric.Detach(l, "node2"); err != nil {
		t.Fatal(err)
	}
	if err := fabric.Attach(l, "node2", fabric.Addr(12), true); err != nil {
		t.Fatal(err)
	}
	connect(t, l)

	hiers, err := machine.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	cgroup := filepath.Join(hiers[0].MountPoint, l.Cgroup(), "node1/kubepods")
	if err := os.MkdirAll(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := machine.Place{NetNS: l.NetNSPath("node1")}.Start(t.Context(), machine.Command{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	awaitArgs(t, p.PID(), "sleep", "1000")
	found := strings.Join(sweep.Find(l), "\n")
	for _, want := range []string{"sleep 1000", l.NetNSPath(layout.Fabric), l.NetNSPath("node2"), cgroup, "directory " + l.Dir()} {
		if !strings.Contains(found, want) {
			t.Errorf("%s is not found among\n%s", want, found)
		}
	}
	for range 2 {
		if err := sweep.Lab(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Wait(); err == nil {
		t.Error("sleep 1000 has ended well")
	}
	if found := sweep.Find(l); len(found) > 0 {
		t.Errorf("after the sweep there are %q", found)
	}
	if _, err := os.Stat(l.Root); err == nil {
		t.Errorf("%s is still there after the last lab", l.Root)
	}
}

// awaitArgs returns when the process has the arguments: a command is started through
// another program, which takes its place with execve(2).
func awaitArgs(t *testing.T, pid int, want ...string) {
	t.Helper()
	testwait.Succeeds(t, 10*time.Second, "the arguments of a process", func() error {
		if args := proc.Args(pid); !slices.Equal(args, want) {
			return fmt.Errorf("process %d has %q, want %q", pid, args, want)
		}
		return nil
	})
}

// connect opens a connection from node1 to node2.
func connect(t *testing.T, l layout.Lab) {
	t.Helper()
	var listener net.Listener
	err := netns.Do(l.NetNSPath("node2"), func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(fabric.Addr(12).String(), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	err = netns.Do(l.NetNSPath("node1"), func() error {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		t.Errorf("node1 does not reach node2: %v", err)
	}
}
