// Package kubebuild builds the programs a lab runs, Kubernetes and etcd from the
// Go modules that test/lab/kube pins and the small pause program from the lab's
// own source, and keeps them in a cache outside the repository.
//
// The cache is $XDG_CACHE_HOME/manx/lab/k8s-<version>. A program is built when it is
// missing or when the sums of what it is built from have changed; a file lock makes
// several labs that start at once build it once. Each user names the programs it needs,
// see [FullLab] and the other sets.
//
// A build takes minutes, so it says at the start how long, and then how far it is. Both
// come from what Go would compile ("go build -n"), weighed by the size of its source,
// against what Go says it compiles ("go build -v"); see plan.go and meter.go.
//
// A user who has the programs already spares the build: [SourceEnv] names their
// directory; see taken.go.
package kubebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The versions that test/lab/kube pins.
const (
	Version     = "v1.36.3" // of Kubernetes
	EtcdVersion = "v3.6.8"
)

// Cache returns the cache directory.
func Cache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "manx/lab/k8s-"+Version), nil
}

// Build builds what is missing of the named programs (all when none is named), or takes
// it from the directory that [SourceEnv] names, and returns the directory that holds
// them. progress gets a line when something is built, and again every ten seconds; see
// also [WithMeter].
func Build(ctx context.Context, progress func(string), names ...string) (string, error) {
	list, err := pick(names)
	if err != nil {
		return "", err
	}
	from, err := sourceFromEnv()
	if err != nil {
		return "", err
	}
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(cache, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	if err := from.check(bin); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	_ = os.Remove(progressFile(cache)) // a killed build's
	repo, repoErr := Repository()
	list, err = from.take(ctx, cache, list, progress)
	if err != nil {
		return "", err
	}
	var todo []target
	for _, t := range list {
		if !fresh(cache, repo, t) {
			todo = append(todo, t)
		}
	}
	if len(todo) == 0 {
		return bin, nil
	}
	if repoErr != nil {
		return "", fmt.Errorf("build %s: %w", namesOf(todo), repoErr)
	}
	if err := compile(ctx, cache, repo, todo, progress); err != nil {
		return "", err
	}
	return bin, nil
}

// fresh reports whether the cached program is there and was built from the present
// inputs; one that was taken was not. Away from the repository there is nothing to compare with; then being there is enough.
func fresh(cache, repo string, t target) bool {
	if _, err := os.Stat(filepath.Join(cache, "bin", t.name)); err != nil {
		return false
	}
	if repo == "" {
		_, taken := readTaken(cache, t)
		return !taken
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

// lock takes the lock file, waiting for another build to end, and telling how far that is.
func lock(ctx context.Context, path string, progress func(string)) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	show, every, end := shown(ctx, progress)
	defer end()
	var last time.Time
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
			last = time.Now()
		}
		if line, err := os.ReadFile(progressFile(filepath.Dir(path))); err == nil && time.Since(last) >= every {
			show("another build: " + strings.TrimPrefix(string(line), "building: "))
			last = time.Now()
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
