package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// rootModules are what the first stage needs to reach the root, and PID 1 to reach the host.
var rootModules = []string{"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"}

// cardModule is the driver of network cards. Loaded by the first stage, it has found
// them when PID 1 of the second begins.
const cardModule = "virtio_net"

// module is a line of modules.dep: a file below the directory of modules.dep and the
// files that must be loaded before it, the last one first.
type module struct {
	file string
	deps []string
}

// moduleName is the name that the kernel has for a module's file: kernel/net/ipv4/ipip.ko.xz is ipip.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readDeps reads modules.dep (modules.dep(5)) of a kernel's directory, by module name.
func readDeps(dir string) (map[string]module, error) {
	b, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	return parseDeps(string(b)), nil
}

func parseDeps(text string) map[string]module {
	deps := map[string]module{}
	for line := range strings.Lines(text) {
		if file, after, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			deps[moduleName(file)] = module{file, strings.Fields(after)}
		}
	}
	return deps
}

// readBuiltin names the modules that are part of the kernel's image; a kernel may have no such list.
func readBuiltin(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		names = append(names, moduleName(strings.TrimSpace(line)))
	}
	return names, nil
}

// loadOrder lists the files of the named modules and of all they depend on, each once
// and after everything that it needs.
func loadOrder(deps map[string]module, builtin []string, names ...string) ([]string, error) {
	var order []string
	add := func(file string) {
		if !slices.Contains(order, file) {
			order = append(order, file)
		}
	}
	for _, name := range names {
		m, ok := deps[name]
		if !ok {
			if slices.Contains(builtin, name) {
				continue
			}
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		for _, file := range slices.Backward(m.deps) {
			add(file)
		}
		add(m.file)
	}
	return order, nil
}
