//go:build vm

package vm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/test/lab/proc"
	"github.com/manx-cni/manx/test/vm"
)

// result is what a run gave.
type result struct {
	code           int
	stdout, stderr bytes.Buffer
}

// options are of a guest large enough for a shell.
func options(t *testing.T, script string) vm.Options {
	t.Helper()
	return vm.Options{
		Args: []string{"sh", "-c", script}, Memory: 1024, Timeout: 5 * time.Minute,
		Progress: func(s string) { t.Log(s) },
	}
}

// run runs a script to its end.
func run(t *testing.T, o vm.Options) *result {
	t.Helper()
	r := &result{}
	o.Stdout, o.Stderr = &r.stdout, &r.stderr
	code, err := vm.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.code = code
	return r
}

// TestCommand is one boot for all that one command can show.
func TestCommand(t *testing.T) {
	blob := make([]byte, 300_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range blob {
		blob[i] = byte(r.Uint32())
	}
	dir := t.TempDir()
	in, leak := filepath.Join(dir, "in"), filepath.Join(dir, "leak")
	if err := os.WriteFile(in, blob, 0o644); err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, `
		set -e
		cat in
		sha256sum in >&2
		echo "greeting=$GREETING" >&2
		echo "inherited=$INHERITED" >&2
		echo "pwd=$(pwd)" >&2
		echo "boot=$(cat /proc/sys/kernel/random/boot_id)" >&2
		echo changed >in
		echo changed >leak
		mv "$PWD" "$PWD.moved"
		ip link add t0 type ipip local 192.0.2.1 remote 192.0.2.2
		ip link show tunl0 >/dev/null
		modprobe -n wireguard
		grep -q cgroup2 /proc/mounts
		grep -qw memory /sys/fs/cgroup/cgroup.controllers
		wc -l in >/dev/null # chooses its instructions by what the CPU says it has
		ip -o addr show dev lo up | grep -q 127.0.0.1
		sleep 1000 &
		exit 3`)
	o.Dir = dir
	o.Env = []string{"GREETING=hello world"}
	t.Setenv("INHERITED", "yes")
	got := run(t, o)
	if got.code != 3 {
		t.Errorf("exit code %d, want 3; stderr:\n%s", got.code, &got.stderr)
	}
	if !bytes.Equal(got.stdout.Bytes(), blob) {
		t.Errorf("stdout has %d bytes that differ from the %d of the file", got.stdout.Len(), len(blob))
	}
	sum := sha256.Sum256(blob)
	for _, want := range []string{hex.EncodeToString(sum[:]) + "  in\n", "greeting=hello world\n", "inherited=\n", "pwd=" + dir + "\n"} {
		if !strings.Contains(got.stderr.String(), want) {
			t.Errorf("stderr has no %q:\n%s", want, &got.stderr)
		}
	}
	if strings.Contains(got.stderr.String(), strings.TrimSpace(string(host))) {
		t.Error("the command ran on the host's kernel")
	}
	if now, err := os.ReadFile(in); err != nil || !bytes.Equal(now, blob) {
		t.Errorf("what the guest wrote to a file of the host is seen outside (%v)", err)
	}
	if _, err := os.Stat(leak); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that the guest made is outside: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "kill -9 $$": 128 + 9} {
		t.Run(script, func(t *testing.T) {
			if got := run(t, options(t, script)); got.code != want {
				t.Errorf("exit code %d, want %d", got.code, want)
			}
		})
	}
}

func TestCommandIsMissing(t *testing.T) {
	o := options(t, "")
	o.Args = []string{"no-such-program"}
	if code, err := vm.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("got exit code %d and error %v, want an error that names the program", code, err)
	}
}

// TestGuestDies has a kernel that panics: the error shows why.
func TestGuestDies(t *testing.T) {
	code, err := vm.Run(t.Context(), options(t, "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 100"))
	if err == nil || !strings.Contains(err.Error(), "died") || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("got exit code %d and error %v, want one with the kernel's panic", code, err)
	}
}

// TestTimeout has a command that does not end and says so when it is asked to, and
// that there is nothing left of the guest.
func TestTimeout(t *testing.T) {
	o := options(t, `trap 'echo asked; exit 0' TERM; echo began; while :; do sleep 1; done`)
	o.Timeout = 90 * time.Second
	var out bytes.Buffer
	o.Stdout = &out
	if code, err := vm.Run(t.Context(), o); !errors.Is(err, vm.ErrTimeout) {
		t.Errorf("got exit code %d and error %v, want ErrTimeout", code, err)
	}
	if out.String() != "began\nasked\n" {
		t.Errorf("the command wrote %q", &out)
	}
}

// TestCancel ends the context while the command runs. Two guests run side by side,
// and nothing is left of the one that is ended.
func TestCancel(t *testing.T) {
	before := tempNames(t)
	other := make(chan error, 1)
	go func() {
		code, err := vm.Run(t.Context(), options(t, "exit 7"))
		if err == nil && code != 7 {
			err = fmt.Errorf("exit code %d, want 7", code)
		}
		other <- err
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := options(t, "echo began; sleep 1000")
	o.Stdout = writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})
	if _, err := vm.Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if err := <-other; err != nil {
		t.Error(err)
	}
	if left := guests(t); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	if after := tempNames(t); !slices.Equal(before, after) {
		t.Errorf("files are left: before %q, after %q", before, after)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// guests are the command lines of this process's children that are QEMU.
func guests(t *testing.T) []string {
	t.Helper()
	pids, err := proc.All()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil && strings.Contains(string(stat), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			found = append(found, strings.Join(proc.Args(pid), " "))
		}
	}
	return found
}

// tempNames lists what a guest could leave, other tests' directories aside.
func tempNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"/tmp/*vm*", "/tmp/*qemu*", "/dev/shm/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	return names
}
