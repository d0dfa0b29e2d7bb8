package former

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// bootID names the running kernel's boot (random(4)).
const bootID = "/proc/sys/kernel/random/boot_id"

// File is a Store in a file that only its owner reads. There is none while there is
// nothing to remember.
type File struct {
	Path string
	// BootID is read for the boot's ID; the kernel's when empty.
	BootID string
}

// content is what the file has.
type content struct {
	BootID  string `json:"bootID"`
	Devices []Link `json:"devices"`
}

// Load implements Store.
func (f File) Load() ([]Link, error) {
	b, err := os.ReadFile(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var c content
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Path, err)
	}
	boot, err := f.boot()
	if err != nil || c.BootID != boot {
		return nil, err // the devices of another boot are others
	}
	return c.Devices, nil
}

// Save implements Store.
func (f File) Save(links []Link) error {
	if len(links) == 0 {
		if err := os.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	boot, err := f.boot()
	if err != nil {
		return err
	}
	b, err := json.Marshal(content{BootID: boot, Devices: links})
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
