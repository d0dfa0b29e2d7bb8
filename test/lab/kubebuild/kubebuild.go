// Package kubebuild builds the programs a lab runs, Kubernetes and etcd from the
// Go modules that test/lab/kube pins and the small pause program from the lab's
// own source, and keeps them in a cache outside the repository.
//
// The cache is $XDG_CACHE_HOME/manx/lab/k8s-<version>. A program is built when it is
// missing or when the sums of what it is built from have changed; a file lock makes
// several labs that start at once build it once.
package kubebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Version is the Kubernetes version that test/lab/kube pins.
const Version = "v1.36.3"

// target is one program: where its source is and what its sum covers.
type target struct {
	name, module, pkg string
	inputs            []string // relative to the repository
}

var kubeInputs = []string{"test/lab/kube/go.mod", "test/lab/kube/go.sum"}

func kube(name string) target {
	return target{name, "test/lab/kube", "k8s.io/kubernetes/cmd/" + name, kubeInputs}
}

// targets are built in this order: what a user waits longest for comes last.
var targets = []target{
	{"pause", ".", "./test/lab/pause", []string{"test/lab/pause/main.go"}},
	{"etcd", "test/lab/kube", "./etcd", append([]string{"test/lab/kube/etcd/main.go"}, kubeInputs...)},
	kube("kubectl"), kube("kubelet"), kube("kube-proxy"), kube("kube-scheduler"), kube("kube-controller-manager"), kube("kube-apiserver"),
	{"agnhost", "test/lab/kube", "k8s.io/kubernetes/test/images/agnhost", kubeInputs},
}

// Cache returns the cache directory.
func Cache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "manx/lab/k8s-"+Version), nil
}

// Build builds what is missing of the named programs (all when none is named) and
// returns the directory that holds them. progress gets a line when something is
// built, and again every ten seconds.
func Build(ctx context.Context, progress func(string), names ...string) (string, error) {
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	repo, repoErr := Repository()
	var todo []target
	for _, t := range targets {
		if wanted(t.name, names) && !fresh(cache, repo, t) {
			todo = append(todo, t)
		}
	}
	if len(todo) > 0 && repoErr != nil {
		return "", fmt.Errorf("build %s: %w", todo[0].name, repoErr)
	}
	for i, t := range todo {
		label := fmt.Sprintf("building %s (%d of %d)", t.name, i+1, len(todo))
		if err := compile(ctx, cache, repo, t, func(s string) { progress(label + s) }); err != nil {
			return "", err
		}
	}
	return bin, nil
}

func wanted(name string, names []string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return len(names) == 0
}

// fresh reports whether the cached program is there and was built from the present
// inputs. Away from the repository there is nothing to compare with; then being there is enough.
func fresh(cache, repo string, t target) bool {
	if _, err := os.Stat(filepath.Join(cache, "bin", t.name)); err != nil {
		return false
	}
	if repo == "" {
		return true
	}
	sum, err := inputSum(repo, t)
	if err != nil {
		return false
	}
	have, err := os.ReadFile(sumFile(cache, t))
	return err == nil && string(have) == sum
}

func sumFile(cache string, t target) string { return filepath.Join(cache, t.name+".sum") }

func inputSum(repo string, t target) (string, error) {
	h := sha256.New()
	for _, name := range t.inputs {
		b, err := os.ReadFile(filepath.Join(repo, name))
		if err != nil {
			return "", fmt.Errorf("sum the source of %s: %w", t.name, err)
		}
		fmt.Fprintf(h, "%s %d\n", name, len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func compile(ctx context.Context, cache, repo string, t target, progress func(string)) error {
	sum, err := inputSum(repo, t)
	if err != nil {
		return err
	}
	const pkg = "k8s.io/component-base/version."
	parts := strings.SplitN(strings.TrimPrefix(Version, "v"), ".", 3)
	flags := fmt.Sprintf("-s -w -X %[1]sgitVersion=%[2]s -X %[1]sgitMajor=%[3]s -X %[1]sgitMinor=%[4]s", pkg, Version, parts[0], parts[1])
	out := filepath.Join(cache, "bin", t.name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", out+".new", t.pkg)
	cmd.Dir = filepath.Join(repo, t.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	stop := tick(progress)
	output, err := cmd.CombinedOutput()
	stop()
	if err != nil {
		return fmt.Errorf("build %s with %q in %s: %w\n%s", t.name, cmd.String(), cmd.Dir, err, output)
	}
	if err := os.Rename(out+".new", out); err != nil {
		return fmt.Errorf("store %s: %w", t.name, err)
	}
	if err := renameio.WriteFile(sumFile(cache, t), []byte(sum), 0o644); err != nil {
		return fmt.Errorf("store %s: %w", t.name, err)
	}
	return nil
}

// tick reports the time that passes until stop is called.
func tick(progress func(string)) (stop func()) {
	start, done := time.Now(), make(chan struct{})
	progress(" …")
	go func() {
		t := time.NewTicker(10 * time.Second)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				progress(fmt.Sprintf(" … %.0f s", time.Since(start).Seconds()))
			}
		}
	}()
	return func() { close(done) }
}

// lock takes the lock file, waiting for another build to end.
func lock(ctx context.Context, path string, progress func(string)) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	for said := false; ; said = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !said {
			progress("waiting for another build to finish")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Repository finds the checkout of Manx that the working directory, or the running program, is in.
func Repository() (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, dir := range starts {
		for ; ; dir = filepath.Dir(dir) {
			b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && strings.HasPrefix(string(b), "module github.com/manx-cni/manx\n") {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errors.New("no checkout of Manx above the working directory or the program; run it from inside one")
}
