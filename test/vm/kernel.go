package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/cachelock"
)

// metaPackage depends on the present kernel of the Debian release. The cloud flavour has no 9p.
const metaPackage = "linux-image-amd64"

// Kernel is a Debian kernel in the cache: Dir/boot/vmlinuz-Version, and its modules
// in Dir/usr/lib/modules/Version.
type Kernel struct {
	Version string // as uname -r gives it, such as 6.1.0-56-amd64
	Dir     string
}

// Image is the file that is booted.
func (k Kernel) Image() string { return filepath.Join(k.Dir, "boot/vmlinuz-"+k.Version) }

// Modules is the directory of the kernel's modules, where modules.dep is.
func (k Kernel) Modules() string { return filepath.Join(k.Dir, "usr/lib/modules", k.Version) }

// FindKernel returns the kernel that the Debian release of this machine has at present.
// The first time it takes the package from the archive, without installing it, to
// $XDG_CACHE_HOME/manx/vm/VERSION. Where the archive cannot be asked, the newest kernel of the cache serves.
func FindKernel(ctx context.Context, progress func(string)) (Kernel, error) {
	cache, err := kernelCache()
	if err != nil {
		return Kernel{}, err
	}
	version, err := currentVersion(ctx)
	if err == nil {
		k := Kernel{Version: version, Dir: filepath.Join(cache, version)}
		if k.complete() {
			return k, nil
		}
		if err = fetch(ctx, cache, k, progress); err == nil {
			return k, nil
		}
	}
	if ctx.Err() == nil {
		if k, ok := newestCached(cache); ok {
			progress(fmt.Sprintf("guest: the kernel of the cache, %s, serves: %v", k.Version, err))
			return k, nil
		}
	}
	return Kernel{}, fmt.Errorf("get a kernel for guests (on Debian: apt-get update, then again): %w", err)
}

func kernelCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "manx/vm"), nil
}

// complete holds for everything that fetch has put in its place: it is renamed there as a whole.
func (k Kernel) complete() bool {
	_, err := os.Stat(k.Image())
	return err == nil
}

// currentVersion asks the package lists.
func currentVersion(ctx context.Context) (string, error) {
	out, err := output(ctx, "", "apt-cache", "depends", "--important", metaPackage)
	if err == nil && dependency(out) == "" {
		// A fresh machine has no lists.
		if err = apt(ctx, "", "update"); err == nil {
			out, err = output(ctx, "", "apt-cache", "depends", "--important", metaPackage)
		}
	}
	if err != nil {
		return "", err
	}
	version := dependency(out)
	if version == "" {
		return "", fmt.Errorf("apt-cache knows no package that %s depends on", metaPackage)
	}
	return version, nil
}

// dependency reads the kernel's version from what "apt-cache depends" prints.
func dependency(out string) string {
	for line := range strings.Lines(out) {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return pkg
		}
	}
	return ""
}

// fetch puts k into the cache, unless another run has just done so.
func fetch(ctx context.Context, cache string, k Kernel, progress func(string)) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	unlock, err := cachelock.Take(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if k.complete() {
		return nil
	}
	// The holder of the lock is alone: such a directory is of a run that was killed.
	stale, err := filepath.Glob(filepath.Join(cache, ".new-*"))
	if err != nil {
		return err
	}
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("clear cache: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(cache, ".new-")
	if err != nil {
		return fmt.Errorf("make cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	tree := filepath.Join(tmp, "tree")
	progress("guest: fetching kernel " + k.Version)
	if err := unpack(ctx, tmp, tree, k.Version); err != nil {
		return err
	}
	if err := os.Rename(tree, k.Dir); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	return nil
}

func unpack(ctx context.Context, tmp, tree, version string) error {
	if err := aptOrUpdate(ctx, tmp, "download", "linux-image-"+version); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download linux-image-%s left %d packages", version, len(debs))
	}
	whole := filepath.Join(tmp, "package")
	if _, err := output(ctx, "", "dpkg-deb", "-x", debs[0], whole); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tree, "usr/lib"), 0o755); err != nil {
		return fmt.Errorf("unpack kernel: %w", err)
	}
	if err := os.Rename(filepath.Join(whole, "boot"), filepath.Join(tree, "boot")); err != nil {
		return fmt.Errorf("unpack kernel: %w", err)
	}
	// The tree is a layer of the guest's root, where /lib is a link to usr/lib.
	from := filepath.Join(whole, "lib/modules")
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		from = filepath.Join(whole, "usr/lib/modules")
	}
	if err := os.Rename(from, filepath.Join(tree, "usr/lib/modules")); err != nil {
		return fmt.Errorf("unpack kernel: %w", err)
	}
	_, err = output(ctx, "", "depmod", "-b", filepath.Join(tree, "usr"), version)
	return err
}

// newestCached finds the kernel that was fetched last.
func newestCached(cache string) (Kernel, bool) {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return Kernel{}, false
	}
	var newest Kernel
	var when time.Time
	for _, e := range entries {
		k := Kernel{Version: e.Name(), Dir: filepath.Join(cache, e.Name())}
		info, err := e.Info()
		if err == nil && e.IsDir() && k.complete() && info.ModTime().After(when) {
			newest, when = k, info.ModTime()
		}
	}
	return newest, newest.Version != ""
}

// HasIPIP reports whether the running kernel has ipip or can load it: whether a test
// of tunnels needs a guest. It loads nothing.
func HasIPIP() bool {
	if _, err := os.Stat("/sys/module/ipip"); err == nil {
		return true
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return false
	}
	return hasModule(filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:])), "ipip")
}

// hasModule looks for a module among those built in and those that can be loaded.
func hasModule(dir, name string) bool {
	builtin, err := readBuiltin(dir)
	if err == nil && slices.Contains(builtin, name) {
		return true
	}
	deps, err := readDeps(dir)
	if err != nil {
		return false
	}
	_, ok := deps[name]
	return ok
}
