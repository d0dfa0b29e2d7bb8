package kubebuild

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFresh(t *testing.T) {
	cache, repo := t.TempDir(), t.TempDir()
	tg := target{name: "prog", inputs: []string{"a", "b"}}
	write(t, filepath.Join(repo, "a"), "1")
	write(t, filepath.Join(repo, "b"), "2")
	if fresh(cache, repo, tg) {
		t.Error("fresh without a program")
	}
	write(t, filepath.Join(cache, "bin/prog"), "x")
	if fresh(cache, repo, tg) {
		t.Error("fresh without a sum")
	}
	if !fresh(cache, "", tg) {
		t.Error("not fresh away from the repository")
	}
	sum, err := inputSum(repo, tg)
	if err != nil {
		t.Fatal(err)
	}
	write(t, sumFile(cache, tg), sum)
	if !fresh(cache, repo, tg) {
		t.Error("not fresh with the right sum")
	}
	write(t, filepath.Join(repo, "b"), "3")
	if fresh(cache, repo, tg) {
		t.Error("fresh after its source has changed")
	}
}

// The version in the cache's name and in the binaries is the one the module pins.
func TestVersionIsThePinnedOne(t *testing.T) {
	repo, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(repo, "test/lab/kube/go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"k8s.io/kubernetes " + Version + "\n", "go.etcd.io/etcd/server/v3 " + EtcdVersion + "\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("test/lab/kube/go.mod does not require %s", want)
		}
	}
	for _, tg := range targets {
		if _, err := inputSum(repo, tg); err != nil {
			t.Errorf("source of %s: %v", tg.name, err)
		}
	}
}

func TestLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	said := 0
	if _, err := lock(ctx, path, func(string) { said++ }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v", err)
	}
	if said != 1 {
		t.Errorf("told %d times that it waits, want once", said)
	}
	unlock()
	again, err := lock(t.Context(), path, func(string) {})
	if err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
	again()
}

// TestLockTellsHowFar: a build that waits tells what the other one does.
func TestLockTellsHowFar(t *testing.T) {
	cache := t.TempDir()
	path := filepath.Join(cache, "lock")
	unlock, err := lock(t.Context(), path, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	m := newMeter(plan{programs: map[string]float64{"a": 1}}, 1)
	defer m.report(t.Context(), cache, t.TempDir(), func(string) {})()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = WithMeter(ctx, func(s string) {
		if strings.HasPrefix(s, "another build:  0 %, about 5 s left") {
			cancel()
		}
	})
	if _, err := lock(ctx, path, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("it waits without telling how far the other is: %v", err)
	}
}
