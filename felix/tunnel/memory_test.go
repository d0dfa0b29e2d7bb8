package tunnel_test

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/tunnel"
)

// remembered are the names in the world's memory.
func (w *world) remembered(t *testing.T) string {
	t.Helper()
	devices, err := w.memory.Load()
	must(t, err)
	names := make([]string, 0, len(devices))
	for _, f := range devices {
		names = append(names, f.Name)
	}
	return strings.Join(names, " ")
}

// watchedMemory is a memory that fails on demand, and sees what the kernel was like.
type watchedMemory struct {
	former.Store
	fail error
	seen func(devices []former.Link)
}

func (m *watchedMemory) Save(devices []former.Link) error {
	if m.seen != nil {
		m.seen(devices)
	}
	if m.fail != nil {
		return m.fail
	}
	return m.Store.Save(devices)
}

// TestRememberedFirst: a process that is killed in between leaves a memory of what has
// not been changed, never a change that nobody remembers.
func TestRememberedFirst(t *testing.T) {
	w := newFake(t)
	w.wanting(t)
	w.wanting(t) // nor does a second process take the first one's for what was there
	devices, err := w.memory.Load()
	if diff := cmp.Diff([]former.Link{{Name: "tunl0", Index: 2, Tunnel: &former.Tunnel{MTU: 1480}}}, devices); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	w = newFake(t)
	known := map[string]former.Link{}
	memory := &watchedMemory{Store: w.memory, seen: func(devices []former.Link) {
		for _, f := range devices {
			known[f.Name] = f
		}
	}}
	w.fake.FailWith(func(op nltest.Op, subject string) error {
		if (op == nltest.OpLinkSetUp || op == nltest.OpLinkSetMTU) && known[subject].Tunnel == nil {
			t.Errorf("%s of %s before it is remembered", op, subject)
		}
		return nil
	})
	d := tunnel.New(tunnel.Config{Kernel: w, Memory: former.New(memory, nil)})
	d.SetTunnel(&w.want)
	apply(t, d)
	if !d.Ready() || len(known) != 1 {
		t.Errorf("ready %v, remembered %v", d.Ready(), known)
	}
}

// TestMemoryFails: the tunnel does not wait for it, and what it should have is saved
// when it works again.
func TestMemoryFails(t *testing.T) {
	w := newFake(t)
	memory := &watchedMemory{Store: w.memory, fail: errors.New("no space left on device")}
	var lines strings.Builder
	log := slog.New(slog.NewTextHandler(&lines, nil))
	d := tunnel.New(tunnel.Config{Kernel: w, Memory: former.New(memory, log), Log: log})
	d.SetTunnel(&w.want)
	apply(t, d)
	resync(t, d)
	if n := strings.Count(lines.String(), "no space left"); n != 1 || !d.Ready() || d.Status().LastError != "" {
		t.Errorf("ready %v, said %d times, %+v:\n%s", d.Ready(), n, d.Status(), &lines)
	}
	memory.fail = nil
	resync(t, d)
	if got := w.remembered(t); got != "tunl0" {
		t.Errorf("remembered: %q", got)
	}

	// What cannot be read is not made up.
	must(t, os.WriteFile(w.memory.Path, []byte("?"), 0o600))
	lines.Reset()
	d = tunnel.New(tunnel.Config{Kernel: w, Memory: former.New(memory, log), Log: log})
	d.SetPools(pools)
	apply(t, d)
	resync(t, d)
	w.expect(t, "retired by its address", "down mtu 1440")
	if n := strings.Count(lines.String(), w.memory.Path); n != 1 {
		t.Errorf("said %d times:\n%s", n, &lines)
	}
}
