package machine

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// etcFiles and etcDirs are what a machine takes over from the host's /etc: enough
// for Debian's programs to run, and nothing that is the host's own business.
var (
	etcFiles = []string{
		"passwd", "group", "nsswitch.conf", "protocols", "services", "ethertypes", "rpc",
		"ld.so.cache", "ld.so.conf", "os-release", "debian_version", "bash.bashrc", "profile", "localtime",
	}
	etcDirs = []string{"alternatives", "ld.so.conf.d", "iproute2", "terminfo"}
)

// skeleton is the rest of a fresh disk. Names that begin with "etc" and so on appear at /etc in the machine.
var skeleton = []string{
	"etc/cni/net.d", "etc/kubernetes/manifests", "opt/cni/bin", "root", "home", "srv", "mnt", "media",
	"var/lib", "var/lib/kubelet", "var/lib/containerd", "var/log/pods", "var/log/containers",
	"var/cache", "var/spool", "var/tmp",
}

// MakeDisk makes a machine's disk, as its first installation would leave it.
// hosts is the content of its /etc/hosts.
func MakeDisk(dir, hostname string, hosts []byte) error {
	disk := diskDir(dir)
	for _, d := range skeleton {
		if err := os.MkdirAll(filepath.Join(disk, d), 0o755); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
	}
	for _, name := range etcFiles {
		if err := copyFile(filepath.Join("/etc", name), filepath.Join(disk, "etc", name)); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
	}
	for _, name := range etcDirs {
		if err := CopyTree(filepath.Join("/etc", name), filepath.Join(disk, "etc", name)); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
	}
	for link, target := range map[string]string{"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "../proc/self/mounts"} {
		if err := os.Symlink(target, filepath.Join(disk, link)); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("make machine id: %w", err)
	}
	files := map[string][]byte{
		"etc/hostname":    []byte(hostname + "\n"),
		"etc/machine-id":  []byte(hex.EncodeToString(id) + "\n"),
		"etc/hosts":       hosts,
		"etc/resolv.conf": {},
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(disk, name), content, 0o644); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
	}
	return nil
}

// CopyTree copies a directory with its symbolic links and file modes; a directory that is not there is no error.
func CopyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == from {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

// copyFile copies a regular file, or the symbolic link itself; a file that is not there is no error.
func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(link, to)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// Tail returns the last n lines of a file, for error messages.
func Tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}
