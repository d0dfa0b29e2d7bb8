package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/renameio/v2"
)

// The names of the lab's images.
const (
	Node    = "docker.io/manx/node:dev"
	Agnhost = "docker.io/manx/agnhost:lab"
	Pause   = "docker.io/manx/pause:lab"
)

// CNIDir is where Debian has the reference CNI plugins.
const CNIDir = "/usr/lib/cni"

// path of the programs in an image.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Config is what an image runs.
type Config struct {
	Ref        string
	Entrypoint []string
	Cmd        []string
}

// NodeTree is the content of the image that Manx runs from: the programs in bin
// (made by the repository's Makefile), nft with its libraries, and the two reference
// CNI plugins that a pod's network needs besides ours.
func NodeTree(bin string) (*Tree, error) {
	t := NewTree()
	for _, p := range []struct {
		program string
		targets []string
	}{
		{program: "manx-node", targets: []string{"usr/local/bin/manx-node"}},
		{program: "manx", targets: []string{"usr/local/bin/manx", "opt/cni/bin/manx", "opt/cni/bin/manx-ipam"}},
		{program: "manxctl", targets: []string{"usr/local/bin/manxctl"}},
		{program: "manx-controllers", targets: []string{"usr/local/bin/manx-controllers"}},
	} {
		file := filepath.Join(bin, p.program)
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("the Manx image needs the program %s; build it first (make build): %w", p.program, err)
		}
		for _, target := range p.targets {
			if err := t.Program(target, file); err != nil {
				return nil, err
			}
		}
	}
	for target, file := range map[string]string{
		"usr/sbin/nft":         "/usr/sbin/nft",
		"opt/cni/bin/portmap":  referencePlugin(bin, "portmap"),
		"opt/cni/bin/loopback": referencePlugin(bin, "loopback"),
	} {
		if err := t.Program(target, file); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// referencePlugin is where a reference CNI plugin is: among the Makefile's programs, or
// Debian's, which speaks an older version of the specification.
func referencePlugin(bin, name string) string {
	built := filepath.Join(bin, name)
	if _, err := os.Stat(built); err == nil {
		return built
	}
	return filepath.Join(CNIDir, name)
}

// BuildNode writes the Manx image, from the programs in bin, to out.
func BuildNode(bin, out string) error {
	t, err := NodeTree(bin)
	if err != nil {
		return err
	}
	return t.Write(out, Config{Ref: Node, Entrypoint: []string{"/usr/local/bin/manx-node"}})
}

// busyboxLinks are the commands that test pods find besides agnhost, curl, ping and
// ip. Debian's busybox crashes in "wget -T"; curl is the client to use.
var busyboxLinks = []string{
	"sh", "cat", "ls", "sleep", "wget", "nc", "arping", "traceroute", "hostname", "nslookup", "awk", "sed", "tr", "cut",
	"env", "grep", "seq", "timeout", "true", "false", "echo", "ps", "kill", "head", "tail", "wc", "date", "sort",
}

// BuildAgnhost writes the image of test pods: Kubernetes' agnhost, a busybox, and Debian's curl, ping and ip.
func BuildAgnhost(agnhost, out string) error {
	t := NewTree()
	if err := t.Program("agnhost", agnhost); err != nil {
		return err
	}
	for target, file := range map[string]string{
		"usr/bin/busybox": "/usr/bin/busybox",
		"usr/bin/curl":    "/usr/bin/curl",
		"usr/bin/ping":    "/usr/bin/ping",
		"usr/bin/ip":      "/bin/ip",
	} {
		if err := t.Program(target, file); err != nil {
			return err
		}
	}
	for _, n := range busyboxLinks {
		t.Symlink("usr/bin/"+n, "busybox")
	}
	return t.Write(out, Config{Ref: Agnhost, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}})
}

// BuildPause writes the image that holds a pod's namespaces.
func BuildPause(pause, out string) error {
	t := &Tree{entries: map[string]entry{}}
	if err := t.Program("pause", pause); err != nil {
		return err
	}
	return t.Write(out, Config{Ref: Pause, Entrypoint: []string{"/pause"}})
}

// Write makes the image and writes it as a docker archive to out, by rename, unless it
// is there already.
//
// The archive is a tar of three files: the layer, the image's configuration (which
// names the layer by the SHA-256 of its tar), and manifest.json (which ties both to
// the name). This is the format of "docker save"; containerd imports it as it is.
func (t *Tree) Write(out string, c Config) error {
	layer, err := t.tar()
	if err != nil {
		return err
	}
	layerSum := digest(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config":       map[string]any{"Entrypoint": c.Entrypoint, "Cmd": c.Cmd, "Env": []string{searchPath}, "WorkingDir": "/"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + layerSum}},
		"history":      []map[string]any{{"created": "1970-01-01T00:00:00Z", "created_by": "lab build-image"}},
	})
	if err != nil {
		return fmt.Errorf("make image %s: %w", c.Ref, err)
	}
	configName, layerName := digest(config)+".json", layerSum+".tar"
	manifest, err := json.Marshal([]archived{{Config: configName, RepoTags: []string{c.Ref}, Layers: []string{layerName}}})
	if err != nil {
		return fmt.Errorf("make image %s: %w", c.Ref, err)
	}
	if there, err := readManifest(out); err == nil && bytes.Equal(there, manifest) {
		return nil // it names all content by its sum; what nodes have unpacked stays good
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	f, err := renameio.NewPendingFile(out, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer func() { _ = f.Cleanup() }()
	w := tar.NewWriter(f)
	for _, file := range []struct {
		name string
		data []byte
	}{{configName, config}, {layerName, layer}, {manifestName, manifest}} {
		if err := (entry{mode: 0o644, data: file.data}).write(w, file.name); err != nil {
			return fmt.Errorf("write image %s: %w", c.Ref, err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write image %s: %w", c.Ref, err)
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write image %s: %w", c.Ref, err)
	}
	return nil
}

const manifestName = "manifest.json"

// archived is an image in manifest.json.
type archived struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// readManifest returns manifest.json of a docker archive.
func readManifest(archive string) ([]byte, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, fmt.Errorf("read image archive: %w", err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("read image archive %s (want a docker archive, as \"docker save\" or \"lab build-image\" write it): %w",
				archive, err)
		}
		if h.Name == manifestName {
			return io.ReadAll(io.LimitReader(r, maxManifest))
		}
	}
}

// maxManifest is far more than any manifest.json has.
const maxManifest = 1 << 20

// Refs returns the names of the images in a docker archive.
func Refs(archive string) ([]string, error) {
	manifest, err := readManifest(archive)
	if err != nil {
		return nil, err
	}
	var images []archived
	if err := json.Unmarshal(manifest, &images); err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", manifestName, archive, err)
	}
	var refs []string
	for _, i := range images {
		refs = append(refs, i.RepoTags...)
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("image archive %s names no image", archive)
	}
	return refs, nil
}
