package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestMemoryOutlastsAFailedUninstall: what is remembered in the agent's directory is
// needed for the next try, and only until one succeeds.
func TestMemoryOutlastsAFailedUninstall(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, filepath.Base(tunnelMemory.Path))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("tunl0: set down: not now")
	if err := clearAfter(failed, dir); !errors.Is(err, failed) {
		t.Errorf("after a failure: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	if err := clearAfter(nil, dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("after success: %v, %v", left, err)
	}
}
