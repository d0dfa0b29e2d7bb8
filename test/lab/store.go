package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/lab/node"
)

// A store is what containerd makes of a set of images: the directory that a node has
// as /var/lib/containerd. It is made once, outside any node, and kept in the cache, so
// that a node starts with its images instead of loading them: hundreds of megabytes
// that are hashed and unpacked, which takes seconds here and minutes in a guest.

// storesKept is how many stores the cache holds; the one used longest ago goes first.
const storesKept = 3

// PrepareStore makes the store of a lab with the given images, if it is not there yet. All
// programs of the lab are there afterwards too: what runs in a guest could not build them in time.
func PrepareStore(ctx context.Context, images []string, progress func(string)) error {
	bin, err := kubebuild.Build(ctx, progress, kubebuild.FullLab...)
	if err != nil {
		return err
	}
	_, err = store(ctx, bin, images, progress)
	return err
}

// store returns the store with the base images and the given ones. It is empty where
// containerd cannot use overlayfs: the nodes load their images themselves there.
func store(ctx context.Context, bin string, images []string, progress func(string)) (string, error) {
	cache := filepath.Join(filepath.Dir(bin), "stores")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the images' store: %w", err)
	}
	key, err := storeKey(bin, images)
	if err != nil {
		return "", fmt.Errorf("make the images' store: %w", err)
	}
	dir := filepath.Join(cache, key)
	if _, err := os.Stat(dir); err == nil {
		now := time.Now()
		_ = os.Chtimes(dir, now, now) // in use; only the clearing below looks at it
		return dir, nil
	}
	if !host.Overlay(cache) {
		return "", nil
	}
	progress("unpacking the images once for all nodes")
	base, err := baseImages(bin)
	if err != nil {
		return "", err
	}
	if err := makeStore(ctx, cache, dir, slices.Concat(base, images)); err != nil {
		return "", fmt.Errorf("make the images' store: %w", err)
	}
	return dir, clearStores(cache)
}

// storeKey names what the store is made from: the programs in the base images by what
// they were built from, archives by their time and size.
func storeKey(bin string, images []string) (string, error) {
	h := sha256.New()
	for _, program := range []string{"agnhost", "pause"} {
		sum, err := os.ReadFile(filepath.Join(filepath.Dir(bin), program+".sum"))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %s\n", program, sum)
	}
	for _, archive := range images {
		info, err := os.Stat(archive)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d %d\n", info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// makeStore runs a containerd of its own that loads the archives, and gives its root
// the name dir when it is complete.
func makeStore(ctx context.Context, cache, dir string, archives []string) error {
	work, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	root, socket := filepath.Join(work, "root"), filepath.Join(work, "sock")
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [%q]\n[grpc]\n  address = %q\n",
		root, filepath.Join(work, "state"), "io.containerd.grpc.v1.cri", socket)
	if err := os.WriteFile(filepath.Join(work, "config.toml"), []byte(config), 0o600); err != nil {
		return err
	}
	var log strings.Builder
	daemon := exec.CommandContext(ctx, "containerd", "--config", filepath.Join(work, "config.toml"))
	daemon.Stdout, daemon.Stderr = &log, &log
	// What it mounts while it unpacks goes with it, and it goes with this process: with
	// the thread that starts it, to be exact, which must not end before.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	daemon.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	daemon.Cancel = func() error { return daemon.Process.Signal(syscall.SIGTERM) }
	daemon.WaitDelay = 10 * time.Second
	if err := daemon.Start(); err != nil {
		return err
	}
	ctr := func(args ...string) error {
		out, err := exec.CommandContext(ctx, "ctr", append([]string{"--address", socket, "--connect-timeout", "1s"}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	err = poll(ctx, func(context.Context) error { return ctr("version") })
	for _, archive := range archives {
		if err == nil {
			err = ctr("-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", archive)
		}
	}
	_ = daemon.Process.Signal(syscall.SIGTERM)
	if waitErr := daemon.Wait(); err != nil {
		return fmt.Errorf("%w (containerd: %v; it said: %s)", err, waitErr, log.String())
	}
	if err := os.Rename(root, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err // else another process was faster
	}
	return nil
}

// clearStores removes the stores that were used longest ago.
func clearStores(cache string) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return fmt.Errorf("look at the images' stores: %w", err)
	}
	used := map[string]time.Time{}
	var names []string
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasPrefix(e.Name(), "new-") {
			used[e.Name()] = info.ModTime()
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int { return used[b].Compare(used[a]) })
	for _, name := range names[min(storesKept, len(names)):] {
		if err := os.RemoveAll(filepath.Join(cache, name)); err != nil {
			return fmt.Errorf("remove an old store of images: %w", err)
		}
	}
	return nil
}

// stock gives a node that is off the images of a store, and reports whether it did. The
// lab has one copy of the store, whose files all nodes share by hard links: what is in
// an image is never written to. Their databases are their own.
func (b *builder) stock(ctx context.Context, name, store string) (bool, error) {
	snapshotter, err := node.Snapshotter(b.Lab, name)
	if err != nil || store == "" || snapshotter != "overlayfs" {
		return false, err
	}
	from, err := b.share(ctx, store)
	if err != nil {
		return false, fmt.Errorf("stock %s with images: %w", name, err)
	}
	to := filepath.Join(b.Disk(name), "var/lib/containerd")
	if err := copyTree(ctx, from, to, "--link"); err != nil {
		return false, fmt.Errorf("stock %s with images: %w", name, err)
	}
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".db" {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return renameio.WriteFile(filepath.Join(to, rel), content, 0o644)
	})
	if err != nil {
		return false, fmt.Errorf("stock %s with images: %w", name, err)
	}
	return true, nil
}

// share makes the lab's copy of a store, once.
func (b *builder) share(ctx context.Context, store string) (string, error) {
	b.sharing.Lock()
	defer b.sharing.Unlock()
	shared := filepath.Join(b.Dir(), "images", filepath.Base(store))
	if _, err := os.Stat(shared); err == nil {
		return shared, nil
	}
	unfinished := shared + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	if err := copyTree(ctx, store, unfinished, "--reflink=auto"); err != nil {
		return "", err
	}
	return shared, os.Rename(unfinished, shared)
}

// copyTree copies what is in a directory, with everything that cp can.
func copyTree(ctx context.Context, from, to, how string) error {
	if err := os.MkdirAll(to, 0o711); err != nil {
		return err
	}
	cp := exec.CommandContext(ctx, "cp", "-a", how, from+"/.", to)
	// It bears no mark of the lab by which a sweep would find it. The kernel's parent is
	// the thread that started it, which must therefore not end before (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cp.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cp.CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
