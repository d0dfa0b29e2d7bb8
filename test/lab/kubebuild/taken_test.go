package kubebuild

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// script is a program that prints something when it is asked for its version.
func script(t *testing.T, path, body string) {
	t.Helper()
	write(t, path, "#!/bin/sh\n"+body+"\n")
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// emptyCache gives the test a cache of its own, and returns a recorder of progress.
func emptyCache(t *testing.T) (cache string, progress func(string), said func() string) {
	t.Helper()
	// Go's cache stays the machine's, where the packages are compiled.
	if dir, err := os.UserCacheDir(); err == nil && os.Getenv("GOCACHE") == "" {
		t.Setenv("GOCACHE", filepath.Join(dir, "go-build"))
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(SourceEnv, "")
	cache, err := Cache()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lines []string
	return cache, func(s string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, s)
		}, func() string {
			mu.Lock()
			defer mu.Unlock()
			all := strings.Join(lines, "\n")
			lines = nil
			return all
		}
}

// TestTaken follows one program: taken, kept, kept without the directory, taken again
// when it changes there, and built when that is asked for.
func TestTaken(t *testing.T) {
	cache, progress, said := emptyCache(t)
	dir := t.TempDir()
	original, mine := filepath.Join(dir, "kubectl"), filepath.Join(cache, "bin/kubectl")
	build := func() {
		t.Helper()
		bin, err := Build(t.Context(), progress, "kubectl")
		if err != nil || filepath.Join(bin, "kubectl") != mine {
			t.Fatalf("Build: %s, %v", bin, err)
		}
	}
	has := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(mine); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("the cache has %q, %v; want one with %s", b, err, want)
		}
	}
	expect := func(want string) {
		t.Helper()
		if got := said(); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
	script(t, original, `[ "$*" = "version --client" ] && echo Client Version: v1.36.9`)
	t.Setenv(SourceEnv, dir)
	build()
	has("v1.36.9")
	expect("kubectl v1.36.9 taken from " + dir)
	build()
	expect("")

	t.Setenv(SourceEnv, "")
	build()
	has("v1.36.9")
	expect(`using kubectl v1.36.9 taken from ` + dir + ` earlier; "lab build --kubernetes modules" builds from source instead`)

	script(t, original, "echo Client Version: v1.36.10")
	if err := os.Chtimes(original, time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	build()
	has("v1.36.9") // a copy
	said()
	t.Setenv(SourceEnv, dir)
	build()
	has("v1.36.10")
	expect("kubectl v1.36.10 taken from " + dir)

	// What follows would build: look at what is left to build instead.
	list, err := pick([]string{"kubectl"})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(original); err != nil {
		t.Fatal(err)
	}
	for _, s := range []source{{modules: true}, {dir: dir}} {
		others, err := s.take(t.Context(), cache, list, progress)
		if err != nil || len(others) != 1 || fresh(cache, repo, others[0]) {
			t.Errorf("from %+v: %d programs to build, %v; want kubectl", s, len(others), err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "building-*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// TestTakenRefused: what does not suit is refused with what was found and what is wanted,
// and the cache stays as it is.
func TestTakenRefused(t *testing.T) {
	for _, c := range []struct{ what, program, body, want string }{
		{"older", "kubelet", "echo Kubernetes v1.35.4", "it is v1.35.4, the lab needs v1.36.x"},
		{"newer", "kube-apiserver", "echo Kubernetes v1.37.0-alpha.1", "it is v1.37.0-alpha.1, the lab needs v1.36.x"},
		{"etcd", "etcd", "echo etcd Version: 3.5.21", "it is v3.5.21, the lab needs v3.6.x"},
		{"says nothing of it", "kubelet", "echo hello", `names no version; it says: hello`},
		{"fails", "kubelet", "echo broken >&2; exit 3", "exit status 3\nbroken"},
	} {
		t.Run(c.what, func(t *testing.T) {
			cache, progress, said := emptyCache(t)
			dir := t.TempDir()
			script(t, filepath.Join(dir, c.program), c.body)
			t.Setenv(SourceEnv, dir)
			_, err := Build(t.Context(), progress, c.program)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), filepath.Join(dir, c.program)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if left, _ := os.ReadDir(filepath.Join(cache, "bin")); len(left) > 0 || said() != "" {
				t.Errorf("the cache has %v", left)
			}
		})
	}
}

func TestBadSource(t *testing.T) {
	cache, progress, _ := emptyCache(t)
	empty, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	write(t, filepath.Join(cache, "bin/etcd"), "")
	for value, want := range map[string]string{
		"relative/path":              "want the absolute path of a directory",
		filepath.Join(empty, "none"): "no such file or directory",
		file:                         "that is no directory",
		empty:                        "it has none of etcd, kube-apiserver, ",
		filepath.Join(cache, "bin"):  "that is the cache itself",
	} {
		t.Setenv(SourceEnv, value)
		if _, err := Build(t.Context(), progress, "etcd"); err == nil ||
			!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), SourceEnv) && value != empty {
			t.Errorf("%s=%s: error %v, want one with %q", SourceEnv, value, err, want)
		}
	}
}

// TestSideBySide: of several builds that start at once, one builds.
func TestSideBySide(t *testing.T) {
	_, progress, said := emptyCache(t)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if bin, err := Build(t.Context(), progress, "pause"); err != nil {
				t.Error(err)
			} else if _, err := os.Stat(filepath.Join(bin, "pause")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if all := said(); strings.Count(all, "building pause, once") != 1 || strings.Count(all, fmt.Sprintf("built %s in ", "pause")) != 1 {
		t.Errorf("it says:\n%s", all)
	}
}
