package contain

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manx-cni/manx/test/lab/image"
)

// busybox is Debian's, which needs no library.
const busybox = "/usr/bin/busybox"

// root is an image with one program.
func root() []image.File {
	return []image.File{
		{Name: "/bin", Mode: fs.ModeDir | 0o755}, {Name: "/proc", Mode: fs.ModeDir | 0o755},
		{Name: "/sys", Mode: fs.ModeDir | 0o755}, {Name: "/dev", Mode: fs.ModeDir | 0o755},
		{Name: "/run", Mode: fs.ModeDir | 0o755}, {Name: "/var", Mode: fs.ModeDir | 0o755},
		{Name: "/var/run", Link: "../run"},
		{Name: "/bin/busybox", Mode: 0o755, Source: busybox},
	}
}

// run runs a script in a container, and returns what it says.
func run(t *testing.T, s Spec, script string) string {
	t.Helper()
	s.Root, s.Env = root(), []string{"PATH=/bin"}
	s.Args = []string{"busybox", "sh", "-c", script}
	cmd, err := Command(s, filepath.Join(t.TempDir(), "spec.json"))
	if err != nil {
		t.Fatal(err)
	}
	gate, open, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	fmt.Fprintln(open)
	open.Close()
	cmd.ExtraFiles = []*os.File{gate}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestRights(t *testing.T) {
	for _, c := range []struct {
		name string
		spec Spec
		want []string
	}{
		{"as containerd's", Spec{Capabilities: DefaultCapabilities()},
			[]string{"CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "NoNewPrivs:\t0"}},
		{"one", Spec{Capabilities: []string{"CAP_NET_ADMIN"}, NoNewPrivs: true},
			[]string{"CapPrm:\t0000000000001000", "CapEff:\t0000000000001000", "CapInh:\t0000000000000000", "NoNewPrivs:\t1"}},
		{"none", Spec{}, []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"}},
		{"another user", Spec{UID: 65532, GID: 65532, Capabilities: DefaultCapabilities()},
			[]string{"Uid:\t65532\t65532\t65532\t65532", "Gid:\t65532\t65532\t65532\t65532", "Groups:\t \n", "CapEff:\t0000000000000000"}},
		{"privileged, another user", Spec{Privileged: true, UID: 7}, []string{"Uid:\t7\t7\t7\t7", "CapEff:\t0000000000000000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			status := run(t, c.spec, "busybox cat /proc/self/status")
			for _, want := range c.want {
				if !strings.Contains(status, want) {
					t.Errorf("there is no %q in\n%s", want, status)
				}
			}
		})
	}
	if _, err := Command(Spec{Capabilities: []string{"NET_FLY"}}, filepath.Join(t.TempDir(), "x")); err == nil ||
		!strings.Contains(err.Error(), "NET_FLY") {
		t.Errorf("a capability that there is not: %v", err)
	}
}

func TestFiles(t *testing.T) {
	volume, tree := t.TempDir(), t.TempDir()
	const try = `for f in /x /proc/sys/kernel/hostname /var/run/v/y /ro/z; ` +
		`do (echo a > $f) 2>/dev/null && echo can $f; done; busybox ls /run/v /.node 2>&1; true`
	mounts := []Mount{{Source: volume, Target: "/var/run/v"}, {Source: tree, Target: "/ro", ReadOnly: true}}
	for name, c := range map[string]struct {
		spec Spec
		want string
	}{
		"read-only": {Spec{ReadOnly: true}, "can /var/run/v/y\n"},
		"writable":  {Spec{}, "can /x\ncan /var/run/v/y\n"},
	} {
		c.spec.Mounts = mounts
		out := run(t, c.spec, try)
		// The volume is behind the link, where the program looks for it; the node's root has gone.
		if !strings.HasPrefix(out, c.want) || !strings.Contains(out, "/run/v:\ny\n") || !strings.Contains(out, "/.node: No such file") {
			t.Errorf("%s: want %q first, y in the volume, and no way to the node's files:\n%s", name, c.want, out)
		}
	}
	if b, err := os.ReadFile(filepath.Join(volume, "y")); err != nil || string(b) != "a\n" {
		t.Errorf("the volume has %q, %v", b, err)
	}
}

// TestGate: a process whose starter ends before it says the word runs nothing.
func TestGate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "spec.json")
	cmd, err := Command(Spec{Args: []string{"busybox", "true"}, Env: []string{"PATH=/bin"}, Root: root()}, file)
	if err != nil {
		t.Fatal(err)
	}
	gate, open, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	open.Close()
	cmd.ExtraFiles = []*os.File{gate}
	out, err := cmd.CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 127 || !strings.Contains(string(out), "EOF") {
		t.Errorf("without the word: %v, want exit code 127:\n%s", err, out)
	}
}
