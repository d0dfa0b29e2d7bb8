package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/manx-cni/manx/test/lab/cachelock"
)

// Ready makes sure that a daemon can run here, and returns the layers (machine.Spec) that
// have it: none when it is installed on the host. Otherwise its package, and the libraries
// of it that the host lacks, are taken from Debian's archive and unpacked, not installed,
// to $XDG_CACHE_HOME/manx/lab/routers/DAEMON: no user is made on the host, and no service.
func Ready(ctx context.Context, name string, progress func(string)) (layers []string, err error) {
	d, err := find(name)
	if err != nil {
		return nil, err
	}
	if d.complete("/") {
		return nil, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find cache directory: %w", err)
	}
	cache = filepath.Join(cache, "manx/lab/routers")
	dir := filepath.Join(cache, name)
	if d.complete(dir) {
		return []string{dir}, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	unlock, err := cachelock.Take(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if d.complete(dir) {
		return []string{dir}, nil
	}
	progress("fetching Debian's package " + d.pkg)
	if err := d.fetch(ctx, cache, dir); err != nil {
		return nil, fmt.Errorf("get %s (on Debian: apt-get update, then again; or install it by hand: apt-get install %s): %w", name, d.pkg, err)
	}
	return []string{dir}, nil
}

// complete reports whether the daemon's programs are below a root.
func (d daemon) complete(root string) bool {
	return !slices.ContainsFunc(d.programs, func(p string) bool {
		_, err := os.Stat(filepath.Join(root, p))
		return err != nil
	})
}

// fetch unpacks the daemon to dir, in one step.
func (d daemon) fetch(ctx context.Context, cache, dir string) error {
	// The holder of the lock is alone: what is there is of a run that was killed.
	stale, err := filepath.Glob(filepath.Join(cache, ".new-*"))
	if err != nil {
		return err
	}
	for _, old := range append(stale, dir) {
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("clear cache: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(cache, ".new-")
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	pkgs, err := missing(ctx, d.pkg)
	if err != nil {
		return err
	}
	download := append([]string{"download"}, pkgs...)
	if _, err := output(ctx, tmp, "apt-get", download...); err != nil {
		// The lists may be older than the archive.
		if _, err := output(ctx, "", "apt-get", "-o", "DPkg::Lock::Timeout=120", "update"); err != nil {
			return err
		}
		if _, err := output(ctx, tmp, "apt-get", download...); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	tree := filepath.Join(tmp, "tree")
	for _, deb := range debs {
		if _, err := output(ctx, "", "dpkg-deb", "-x", deb, tree); err != nil {
			return err
		}
	}
	if !d.complete(tree) {
		return fmt.Errorf("the packages %s have not all of %s", strings.Join(pkgs, " "), strings.Join(d.programs, " "))
	}
	// Where the host's /lib is a link to /usr/lib, a layer's own would be lost.
	for _, name := range []string{"etc", "var"} {
		if err := os.RemoveAll(filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	return os.Rename(tree, dir)
}

// missing is a package with the libraries it depends on, at any remove, that are not installed.
func missing(ctx context.Context, pkg string) ([]string, error) {
	pkgs := []string{pkg}
	for i := 0; i < len(pkgs); i++ {
		out, err := depends(ctx, pkgs[i])
		if err != nil {
			return nil, err
		}
		for _, lib := range libraries(out) {
			if slices.Contains(pkgs, lib) {
				continue
			}
			status, err := output(ctx, "", "dpkg-query", "-W", "-f", "${db:Status-Abbrev}", lib)
			if err != nil || !strings.HasPrefix(status, "ii") {
				pkgs = append(pkgs, lib)
			}
		}
	}
	return pkgs, nil
}

func depends(ctx context.Context, pkg string) (string, error) {
	out, err := output(ctx, "", "apt-cache", "depends", "--important", pkg)
	if err == nil && strings.Contains(out, "Depends: ") {
		return out, nil
	}
	// A fresh machine has no lists.
	if _, err := output(ctx, "", "apt-get", "-o", "DPkg::Lock::Timeout=120", "update"); err != nil {
		return "", err
	}
	return output(ctx, "", "apt-cache", "depends", "--important", pkg)
}

// libraries are those among the packages that "apt-cache depends" names.
func libraries(out string) (libs []string) {
	for line := range strings.Lines(out) {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(pkg, "lib") {
			libs = append(libs, pkg)
		}
	}
	return libs
}

// output runs a program to its end in dir; the error has what it said.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}
