package vm

import (
	"debug/elf"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

var (
	//go:embed init.sh
	initScript []byte
	//go:embed probe.sh
	probeScript []byte
)

// Where stage one puts what stage two starts from.
const (
	initPath = "/run/manx-vm-init"
	specPath = "/run/spec.json"
)

// spec is what stage two is told.
type spec struct {
	Args    []string `json:"args"`
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Seconds float64  `json:"seconds"` // after power-on the command is ended
	Cards   []string `json:"cards"`   // hardware addresses of uplink0, uplink1, …
}

// rootInitramfs makes the initramfs that goes on to the host's root and runs s there.
// The calling program goes along as a copy, so that it may be built anew meanwhile.
func rootInitramfs(k Kernel, s spec) ([]byte, error) {
	a, err := baseInitramfs(initScript)
	if err != nil {
		return nil, err
	}
	deps, err := readDeps(k.Modules())
	if err != nil {
		return nil, err
	}
	builtin, err := readBuiltin(k.Modules())
	if err != nil {
		return nil, err
	}
	modules := rootModules
	if len(s.Cards) > 0 {
		modules = append(slices.Clone(modules), cardModule)
	}
	order, err := loadOrder(deps, builtin, modules...)
	if err != nil {
		return nil, err
	}
	a.dir("modules")
	for i, file := range order {
		content, err := os.ReadFile(filepath.Join(k.Modules(), file))
		if err != nil {
			return nil, err
		}
		// The script loads them in the order of their names.
		a.file(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(file)), 0o644, content)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	a.file(filepath.Base(initPath), 0o755, self)
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	a.file(filepath.Base(specPath), 0o644, b)
	return a.bytes(), nil
}

// probeInitramfs makes the initramfs that says that it runs and switches the guest off.
func probeInitramfs() ([]byte, error) {
	a, err := baseInitramfs(probeScript)
	if err != nil {
		return nil, err
	}
	return a.bytes(), nil
}

func baseInitramfs(script []byte) (*archive, error) {
	path, err := find("busybox")
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkStatic(path); err != nil {
		return nil, err
	}
	a := &archive{}
	a.dir("bin")
	a.file("bin/busybox", 0o755, busybox)
	a.file("init", 0o755, script)
	return a, nil
}

// checkStatic reports a program that needs an interpreter: the initramfs has no libraries.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs shared libraries; install Debian's busybox-static in place of busybox", path)
		}
	}
	return nil
}
