package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/layout"
)

// TestKubeconfig: standard output has the path and nothing else, for scripts; who stands
// outside of the lab is told what to put in front, and who stands in it is not.
func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(layout.RootEnv, dir)
	labName := fmt.Sprintf("kc%d", os.Getpid())
	l, err := layout.New(labName)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.StateFile(), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	print := func() (stdout, stderr string) {
		t.Helper()
		cmd := root()
		var out, errOut bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&errOut)
		cmd.SetArgs([]string{"--name", labName, "kubeconfig"})
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String(), errOut.String()
	}
	path := filepath.Join(dir, labName, "kubeconfig")
	out, hint := print()
	want := fmt.Sprintf("%s --name %s exec outside manxctl --kubeconfig %s status\n", os.Args[0], labName, path)
	if out != path+"\n" || !strings.Contains(hint, want) {
		t.Errorf("outside it prints %q and says\n%s\nwant %q in it", out, hint, want)
	}

	// This process's own namespace becomes one of the lab's.
	netns := l.NetNSPath(layout.Outside)
	if err := os.MkdirAll(layout.NetNSDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(netns, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(netns, unix.MNT_DETACH)
		if err := os.Remove(netns); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("/proc/self/ns/net", netns, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if out, hint := print(); out != path+"\n" || hint != "" {
		t.Errorf("inside it prints %q and says %q; want no hint", out, hint)
	}
}
