// Package confdir reads a node's CNI configuration directory as container runtimes do:
// of the files named *.conf, *.conflist and *.json the first by name is the network of
// all pods.
//
//	05-cilium.conflist    taken: pods go to Cilium, or fail when it is gone
//	10-manx.conflist      ours, and never looked at
//
// A file is ours by its content: the first plugin is manx. One of a plugin that itself
// chooses among the others, such as Multus, is passed over, as that plugin does.
//
// What is moved out of the way keeps its content under the name with ".manx_bak" behind
// it, which no runtime reads, and is moved back by uninstalling.
package confdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Suffix is behind the name of a file that was moved out of the way.
const Suffix = ".manx_bak"

// maxFile bounds what is read of one file; a configuration has a few KB.
const maxFile = 1 << 20

// choosers are plugins that delegate to one of the other configurations.
var choosers = []string{"multus", "multus-shim", "multus-cni", "genie", "danm", "fakemultus"}

// File is a configuration.
type File struct {
	Name   string // in the directory
	Plugin string // type of its first plugin; empty when it has none that can be read
	Fault  string // why nothing can be read; or ""
}

// String is for the end of a sentence: what the runtime makes of the file.
func (f File) String() string {
	switch {
	case f.Fault != "":
		return "which it cannot read (" + f.Fault + ")"
	case f.Plugin == "":
		return "which names no plugin"
	}
	return "of the plugin " + f.Plugin
}

// View is a directory at one time.
type View struct {
	Ours   string // the first file of ours; empty: there is none
	Before []File // what comes before it, or all there is; choosers left out
}

// Equal reports whether two views show the same.
func (v View) Equal(o View) bool { return v.Ours == o.Ours && slices.Equal(v.Before, o.Before) }

// Look reads a directory. An error says that it cannot be known.
func Look(dir string) (View, error) {
	entries, err := os.ReadDir(dir) // sorted by name, as runtimes do
	if err != nil {
		return View{}, fmt.Errorf("read the CNI configuration directory: %w", err)
	}
	var v View
	for _, e := range entries {
		if e.IsDir() || !isConfig(e.Name()) {
			continue
		}
		f, gone := read(dir, e.Name())
		switch {
		case gone || slices.Contains(choosers, f.Plugin):
		case f.Plugin == "manx":
			v.Ours = f.Name
			return v, nil
		default:
			v.Before = append(v.Before, f)
		}
	}
	return v, nil
}

func isConfig(name string) bool {
	switch filepath.Ext(name) {
	case ".conf", ".conflist", ".json":
		return true
	}
	return false
}

func read(dir, name string) (f File, gone bool) {
	f.Name = name
	text, err := readSome(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return f, true
	}
	var conf struct {
		Type    string
		Plugins []struct{ Type string }
	}
	if err == nil {
		err = json.Unmarshal(text, &conf)
	}
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err // the name is said already
		}
		f.Fault = err.Error()
		return f, false
	}
	f.Plugin = conf.Type
	if filepath.Ext(name) == ".conflist" || f.Plugin == "" {
		f.Plugin = ""
		if len(conf.Plugins) > 0 {
			f.Plugin = conf.Plugins[0].Type
		}
	}
	return f, false
}

func readSome(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold us up
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("it is no ordinary file")
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// MoveAway renames a file so that no runtime reads it.
func MoveAway(dir, name string) error {
	return os.Rename(filepath.Join(dir, name), filepath.Join(dir, name+Suffix))
}

// MoveBack renames what was moved away, and returns the names. A file whose name is
// taken by now stays where it is, and is named in the error.
func MoveBack(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		name, moved := strings.CutSuffix(e.Name(), Suffix)
		if !moved || name == "" {
			continue
		}
		target := filepath.Join(dir, name)
		// Link and remove: a rename would replace what is there.
		if err := os.Link(filepath.Join(dir, e.Name()), target); err != nil {
			errs = append(errs, fmt.Errorf("move %s back to %s: %w", e.Name(), name, err))
			continue
		}
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		names = append(names, name)
	}
	return names, errors.Join(errs...)
}
