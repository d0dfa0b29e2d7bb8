package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestPrinter: a line that is rewritten leaves nothing behind a step, and does not wrap.
func TestPrinter(t *testing.T) {
	var b bytes.Buffer
	p := &printer{w: &b, width: func() int { return 23 }, start: time.Now()}
	p.step("one step")
	p.rewrite("10 %, 1 min left")
	p.rewrite("11 %, 1 min left")
	p.step("another step")
	p.rewrite("")
	const erase = "\r\x1b[K"
	want := "[  0.0 s] one step\n[  0.0 s] 10 %, 1 min " + erase + "[  0.0 s] 11 %, 1 min " + erase + "[  0.0 s] another step\n"
	if b.String() != want {
		t.Errorf("it writes %q, want %q", b.String(), want)
	}
}

// TestBuildArguments: what cannot be meant is refused at once.
func TestBuildArguments(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	cmd := root()
	cmd.SetArgs([]string{"build", "kubeadm"})
	const want = `no program "kubeadm" to build; there are etcd, kube-apiserver`
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("lab build kubeadm: error %v, want one with %q", err, want)
	}
}
