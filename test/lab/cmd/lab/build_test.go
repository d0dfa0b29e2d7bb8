package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/test/lab/kubebuild"
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

// TestBuildArguments: what cannot be meant is refused at once, and the flag is the variable.
func TestBuildArguments(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := t.TempDir()
	t.Chdir(dir)
	for _, c := range []struct {
		args      string
		want, env string
	}{
		{"build kubeadm", `argument "kubeadm": want etcd, kube-apiserver`, ""},
		{"build --kubernetes . kubectl", "it has none of etcd, kube-apiserver", dir},
		{"store --kubernetes nowhere", "nowhere: no such file", filepath.Join(dir, "nowhere")},
		{"up --no-cni --kubernetes=nowhere extra", `unexpected argument "extra"`, filepath.Join(dir, "nowhere")},
		{"build --kubernetes modules kubeadm", `argument "kubeadm"`, kubebuild.FromModules},
		{"down --kubernetes .", "unknown flag: --kubernetes", ""},
	} {
		t.Setenv(kubebuild.SourceEnv, "")
		cmd := root()
		cmd.SetArgs(strings.Fields(c.args))
		err := cmd.ExecuteContext(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("lab %s: error %v, want one with %q", c.args, err, c.want)
		}
		if got := os.Getenv(kubebuild.SourceEnv); got != c.env {
			t.Errorf("lab %s: %s is %q, want %q", c.args, kubebuild.SourceEnv, got, c.env)
		}
	}
}

// TestFailedCommandIsShown: only what runs in the foreground speaks for itself. A program
// that fails when the lab runs it is named on standard error, and the exit code is the lab's.
func TestFailedCommandIsShown(t *testing.T) {
	lab := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.Command("go", "build", "-o", lab, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kubelet"), []byte("#!/bin/sh\necho broken; exit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lab, "build", "--kubernetes", dir, "kubelet")
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir())
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "exit status 3\nbroken") {
		t.Errorf("exit code %d, and it says %q", code, out)
	}
}
