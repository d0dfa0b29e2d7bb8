package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeBin is a directory of programs as "make build" leaves them, copies of one small dynamic program.
func fakeBin(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	b, err := os.ReadFile("/usr/bin/setpriv")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// unpack returns the archive's files, and the entries of its only layer.
func unpack(t *testing.T, archive string) (files map[string][]byte, layer map[string]*tar.Header) {
	t.Helper()
	raw, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	files, _ = untar(t, raw)
	var manifest []archived
	if err := json.Unmarshal(files[manifestName], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("manifest %+v: want one image of one layer", manifest)
	}
	_, layer = untar(t, files[manifest[0].Layers[0]])
	return files, layer
}

func untar(t *testing.T, raw []byte) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	files, headers := map[string][]byte{}, map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if headers[name] != nil {
			t.Errorf("%s is in the archive twice", name)
		}
		headers[name] = h
		if files[name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNodeImage(t *testing.T) {
	bin := fakeBin(t, "manx-node", "manx-controllers", "manx", "manxctl")
	out := filepath.Join(t.TempDir(), "sub/node.tar")
	if err := BuildNode(bin, out); err != nil {
		t.Fatal(err)
	}
	files, layer := unpack(t, out)
	for _, name := range []string{
		"usr/local/bin/manx-node", "usr/local/bin/manx-controllers", "usr/local/bin/manxctl", "opt/cni/bin/manx", "opt/cni/bin/manx-ipam",
		"opt/cni/bin/portmap", "opt/cni/bin/loopback", "usr/sbin/nft", "etc/passwd", "tmp",
	} {
		h := layer[name]
		if h == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		if strings.Contains(name, "bin/") && h.Mode != 0o755 {
			t.Errorf("%s has mode %o, want 755", name, h.Mode)
		}
	}
	if h := layer["tmp"]; h != nil && h.Mode != 0o1777 {
		t.Errorf("/tmp has mode %o, want 1777", h.Mode)
	}
	var libc, loader bool
	for name, h := range layer {
		libc = libc || strings.Contains(name, "/libc.so.")
		loader = loader || strings.Contains(name, "/ld-linux")
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s: time %s, owner %d:%d; want zeros", name, h.ModTime, h.Uid, h.Gid)
		}
		if strings.HasPrefix(name, "lib/") || strings.HasPrefix(name, "lib64/") {
			t.Errorf("%s is below a symbolic link", name)
		}
		parent := filepath.Dir(name)
		if parent != "." && layer[parent] == nil {
			t.Errorf("%s has no entry for its directory", name)
		}
	}
	if !libc || !loader {
		t.Errorf("nft's libraries: libc %v, loader %v", libc, loader)
	}
	checkSums(t, files)
	refs, err := Refs(out)
	if diff := cmp.Diff([]string{Node}, refs); err != nil || diff != "" {
		t.Errorf("names: %v %s", err, diff)
	}
}

// checkSums verifies what a container runtime verifies: the layer against the configuration.
func checkSums(t *testing.T, files map[string][]byte) {
	t.Helper()
	var manifest []archived
	if err := json.Unmarshal(files[manifestName], &manifest); err != nil {
		t.Fatal(err)
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(files[manifest[0].Layers[0]])
	if want := "sha256:" + hex.EncodeToString(sum[:]); len(config.RootFS.DiffIDs) != 1 || config.RootFS.DiffIDs[0] != want {
		t.Errorf("diff_ids %q, want %s", config.RootFS.DiffIDs, want)
	}
}

func TestReproducible(t *testing.T) {
	var sums []string
	for range 2 {
		bin := fakeBin(t, "manx-node", "manx-controllers", "manx", "manxctl")
		if err := os.Chtimes(filepath.Join(bin, "manx"), time.Now(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "node.tar")
		if err := BuildNode(bin, out); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, digest(b))
	}
	if sums[0] != sums[1] {
		t.Error("the same programs give different archives")
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	err := BuildNode(fakeBin(t, "manx-node", "manx"), filepath.Join(t.TempDir(), "x.tar"))
	if err == nil || !strings.Contains(err.Error(), "manxctl") {
		t.Errorf("got %v, want an error that names manxctl", err)
	}
}

func TestParseLdd(t *testing.T) {
	out := "\tlinux-vdso.so.1 (0x00007fff)\n\tlibnftables.so.1 => /lib/x86_64-linux-gnu/libnftables.so.1 (0x00007f1)\n" +
		"\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f3)\n"
	got, err := parseLdd(out, "nft")
	want := []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libnftables.so.1", "/lib64/ld-linux-x86-64.so.2"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := parseLdd("\tlibx.so.1 => not found\n", "nft"); err == nil {
		t.Error("a missing library is accepted")
	}
}

func TestRefsOfNoArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(file, []byte("not a tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Refs(file); err == nil || !strings.Contains(err.Error(), "docker archive") {
		t.Errorf("got %v, want an error that says what is wanted", err)
	}
}

// TestWriteOnce: an image that has not changed is not written again, so that what was
// made of its archive, which is known by its time, stays good.
func TestWriteOnce(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image.tar")
	made := func(content string) os.FileInfo {
		t.Helper()
		tree := NewTree()
		tree.Data("etc/text", []byte(content))
		if err := tree.Write(out, Config{Ref: "docker.io/manx/test:once"}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := made("one")
	if again := made("one"); !os.SameFile(first, again) {
		t.Error("the same image is written a second time")
	}
	if other := made("two"); os.SameFile(first, other) {
		t.Error("another image is not written")
	}
}
