// Package image makes container images from files of this machine, without a
// registry or a base image: one uncompressed layer and a configuration in a docker
// archive that containerd imports.
//
// The same files give the same archive, byte for byte: entries are sorted, and all
// times are zero.
package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Tree is the file tree of an image that is being put together.
type Tree struct {
	entries map[string]entry // by path without the leading slash
}

type entry struct {
	mode   fs.FileMode
	link   string // target, of a symbolic link
	source string // file on this machine, or
	data   []byte
}

// NewTree returns a tree with the directories and links that every image here has:
// programs and libraries are under /usr, as on Debian.
func NewTree() *Tree {
	t := &Tree{entries: map[string]entry{}}
	for name, target := range map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run",
	} {
		t.Symlink(name, target)
	}
	for _, dir := range []string{
		"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "run", "etc", "root", "proc", "sys", "dev", "var/lib", "var/log",
	} {
		t.Dir(dir, 0o755)
	}
	t.Dir("tmp", 0o777|fs.ModeSticky)
	t.Dir("var/tmp", 0o777|fs.ModeSticky)
	t.Data("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"))
	t.Data("etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"))
	t.Data("etc/nsswitch.conf", []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	return t
}

// Dir adds a directory.
func (t *Tree) Dir(name string, mode fs.FileMode) { t.add(name, entry{mode: mode | fs.ModeDir}) }

// Symlink adds a symbolic link.
func (t *Tree) Symlink(name, target string) {
	t.add(name, entry{mode: 0o777 | fs.ModeSymlink, link: target})
}

// Data adds a file with the given content.
func (t *Tree) Data(name string, content []byte) { t.add(name, entry{mode: 0o644, data: content}) }

// Program adds the program file of this machine as name, together with the shared
// libraries and the loader that it needs.
func (t *Tree) Program(name, file string) error {
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("add %s to the image: %w", name, err)
	}
	t.add(name, entry{mode: 0o755, source: file})
	libs, err := libraries(file)
	if err != nil {
		return err
	}
	for _, lib := range libs {
		// /lib and /lib64 are links in the image as they are here; /usr/lib is the place.
		at := lib
		if !strings.HasPrefix(at, "/usr/") {
			at = "/usr" + at
		}
		t.add(at, entry{mode: 0o755, source: lib})
	}
	return nil
}

func (t *Tree) add(name string, e entry) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t.entries[dir]; !ok {
			t.entries[dir] = entry{mode: 0o755 | fs.ModeDir}
		}
	}
	t.entries[name] = e
}

// Names lists the paths in the tree, sorted.
func (t *Tree) Names() []string {
	names := make([]string, 0, len(t.entries))
	for n := range t.entries {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// File is an entry of a tree: a directory, a symbolic link, a file with Data, or one that
// is a copy of this machine's file Source.
type File struct {
	Name   string      `json:"name"` // without the leading slash
	Mode   fs.FileMode `json:"mode"`
	Link   string      `json:"link,omitempty"`
	Source string      `json:"source,omitempty"`
	Data   []byte      `json:"data,omitempty"`
}

// Files lists the tree, directories before what is in them.
func (t *Tree) Files() []File {
	files := make([]File, 0, len(t.entries))
	for _, name := range t.Names() {
		e := t.entries[name]
		files = append(files, File{Name: name, Mode: e.mode, Link: e.link, Source: e.source, Data: e.data})
	}
	return files
}

// tar writes the tree as a layer.
func (t *Tree) tar() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range t.Names() {
		if err := t.entries[name].write(w, name); err != nil {
			return nil, fmt.Errorf("write %s into the image: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write image layer: %w", err)
	}
	return buf.Bytes(), nil
}

func (e entry) write(w *tar.Writer, name string) error {
	h := &tar.Header{Name: name, Mode: int64(e.mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if e.mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	var content io.Reader = bytes.NewReader(e.data)
	switch {
	case e.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case e.link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
	case e.source != "":
		f, err := os.Open(e.source)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		h.Typeflag, h.Size, content = tar.TypeReg, info.Size(), f
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(e.data))
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(w, content)
	return err
}

// libraries asks the dynamic loader what a program needs. A static one, or a file
// that is no ELF program, needs nothing.
func libraries(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil
		}
		return nil, fmt.Errorf("read program: %w", err)
	}
	dynamic := slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	f.Close()
	if !dynamic {
		return nil, nil
	}
	out, err := exec.Command("ldd", file).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("find the libraries of %s: ldd: %w: %s", file, err, out)
	}
	return parseLdd(string(out), file)
}

// parseLdd reads the lines "name => /path (address)" and "/path (address)".
func parseLdd(out, file string) ([]string, error) {
	var libs []string
	for line := range strings.SplitSeq(out, "\n") {
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("a library of %s is missing: %s", file, strings.TrimSpace(line))
		}
		for f := range strings.FieldsSeq(line) {
			if filepath.IsAbs(f) {
				libs = append(libs, f)
				if strings.Contains(line, "=>") {
					break
				}
			}
		}
	}
	slices.Sort(libs)
	return slices.Compact(libs), nil
}
