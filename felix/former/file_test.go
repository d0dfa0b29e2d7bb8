package former_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryFile(t *testing.T) {
	strict := nl.RPFilterStrict
	devices := []former.Link{
		{Name: "eth0", Index: 2, RPFilter: &strict},
		{Name: "tunl0", Index: 7, Tunnel: &former.Tunnel{WasUp: true, MTU: 1400}},
	}
	boot := filepath.Join(t.TempDir(), "boot_id")
	must(t, os.WriteFile(boot, []byte("one\n"), 0o600))
	f := former.File{Path: filepath.Join(t.TempDir(), "manx", "tunnel.json"), BootID: boot}
	expect := func(when string, want []former.Link) {
		t.Helper()
		got, err := f.Load()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", when, err, diff)
		}
	}
	expect("never saved", nil)
	must(t, f.Save(nil), f.Save(devices))
	expect("saved", devices)
	if info, err := os.Stat(f.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if b, err := os.ReadFile(f.Path); err != nil || string(b) != `{"bootID":"one","devices":[`+
		`{"name":"eth0","index":2,"rpFilter":1},{"name":"tunl0","index":7,"tunnel":{"wasUp":true,"mtu":1400}}]}`+"\n" {
		t.Errorf("%v: %s", err, b)
	}
	must(t, os.WriteFile(boot, []byte("two\n"), 0o600))
	expect("after a reboot", nil)
	must(t, f.Save(devices[:1]))
	expect("saved again", devices[:1])
	must(t, os.WriteFile(f.Path, []byte("{"), 0o600))
	if _, err := f.Load(); err == nil || !strings.Contains(err.Error(), f.Path) {
		t.Errorf("broken: %v", err)
	}
	must(t, f.Save(nil), f.Save(nil))
	if _, err := os.Stat(f.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to remember, and there is a file: %v", err)
	}
	must(t, f.Save(devices), os.Remove(boot))
	if _, err := f.Load(); err == nil {
		t.Error("of an unknown boot, and believed")
	}
	if err := f.Save(devices); err == nil {
		t.Error("saved for an unknown boot")
	}
}
