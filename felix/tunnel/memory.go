package tunnel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
)

// Memory keeps what devices were before a Driver changed them, for the processes that
// come after: that cannot be seen on the devices.
type Memory interface {
	// Load returns what the last Save of this boot was given.
	Load() ([]Former, error)
	// Save replaces it.
	Save(devices []Former) error
}

// Former is what a device was before it was changed.
type Former struct {
	Name string `json:"name"`
	// Index is its number: another device of that name has another one.
	Index int `json:"index"`
	// RPFilter is what an rp_filter that was made loose was; nil when none was.
	RPFilter *int `json:"rpFilter,omitempty"`
	// Tunnel is what the tunnel device was; nil for others.
	Tunnel *FormerTunnel `json:"tunnel,omitempty"`
}

// FormerTunnel is what the tunnel device was.
type FormerTunnel struct {
	// WasUp: it was up, for somebody else. If not, it is up because of this package.
	WasUp bool `json:"wasUp"`
	// MTU in bytes; 0 when it is not known.
	MTU int `json:"mtu,omitempty"`
}

// noMemory forgets everything with the process.
type noMemory struct{}

func (noMemory) Load() ([]Former, error) { return nil, nil }
func (noMemory) Save([]Former) error     { return nil }

// bootID names the running kernel's boot (random(4)).
const bootID = "/proc/sys/kernel/random/boot_id"

// File is a Memory in a file that only its owner reads. There is none while there is
// nothing to remember.
type File struct {
	Path string
	// BootID is read for the boot's ID; the kernel's when empty.
	BootID string
}

// memorised is the file's content.
type memorised struct {
	BootID  string   `json:"bootID"`
	Devices []Former `json:"devices"`
}

// Load implements Memory.
func (f File) Load() ([]Former, error) {
	b, err := os.ReadFile(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var m memorised
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Path, err)
	}
	boot, err := f.boot()
	if err != nil || m.BootID != boot {
		return nil, err // devices have been made anew since
	}
	return m.Devices, nil
}

// Save implements Memory.
func (f File) Save(devices []Former) error {
	if len(devices) == 0 {
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	boot, err := f.boot()
	if err != nil {
		return err
	}
	b, err := json.Marshal(memorised{BootID: boot, Devices: devices})
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.Path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(f.Path, append(b, '\n'), 0o600, renameio.WithTempDir(dir))
}

func (f File) boot() (string, error) {
	path := f.BootID
	if path == "" {
		path = bootID
	}
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// recall reads the memory once. A process that cannot goes on without.
func (d *Driver) recall() {
	if d.formers != nil {
		return
	}
	d.formers = map[string]Former{}
	devices, err := d.cfg.Memory.Load()
	if err != nil {
		d.cfg.Log.Warn("what devices were before the tunnel is not known; they stay as they are when it goes", "err", err)
	}
	for _, f := range devices {
		d.formers[f.Name] = f
	}
}

// former is what a device was, empty when it has not been changed.
func (d *Driver) former(name string, index int) Former {
	if f := d.formers[name]; f.Index == index {
		return f
	}
	return Former{Name: name, Index: index}
}

// remember saves what a device was, before it is changed.
func (d *Driver) remember(f Former) {
	d.formers[f.Name] = f
	d.save()
}

// forget ends what the memory has of a device, or one part of it.
func (d *Driver) forget(name string, part func(*Former)) {
	f, known := d.formers[name]
	if !known {
		return
	}
	part(&f)
	if f.RPFilter == nil && f.Tunnel == nil {
		delete(d.formers, name)
	} else {
		d.formers[name] = f
	}
	d.save()
}

func forgetRPFilter(f *Former) { f.RPFilter = nil }
func forgetTunnel(f *Former)   { f.Tunnel = nil }

// save writes the memory. Traffic does not wait for it: when it fails, the next
// process knows less.
func (d *Driver) save() {
	devices := make([]Former, 0, len(d.formers))
	for _, f := range d.formers {
		devices = append(devices, f)
	}
	slices.SortFunc(devices, func(a, b Former) int { return strings.Compare(a.Name, b.Name) })
	err := d.cfg.Memory.Save(devices)
	switch {
	case err != nil && !d.unsaved:
		d.cfg.Log.Warn("what devices were before the tunnel is not saved; "+
			"trying again; the next process would leave them as they are", "err", err)
	case err == nil && d.unsaved:
		d.cfg.Log.Info("what devices were before the tunnel is saved after failing")
	}
	d.unsaved = err != nil
}
