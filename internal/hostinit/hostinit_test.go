package hostinit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host makes a stand-in for the host's files with the given ip_forward.
func host(t *testing.T, forward string) Config {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{ProcSys: filepath.Join(dir, "sys"), IPRoute2: filepath.Join(dir, "iproute2"), Protocol: 70}
	if err := os.MkdirAll(filepath.Join(cfg.ProcSys, "net/ipv4"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.ProcSys, "net/ipv4/ip_forward"), []byte(forward), 0o644); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestRunIsIdempotent(t *testing.T) {
	cfg := host(t, "0\n")
	changed, err := Run(cfg)
	if err != nil || len(changed) != 2 {
		t.Fatalf("first run: changed %q, %v; want both settings made", changed, err)
	}
	if b, _ := os.ReadFile(filepath.Join(cfg.ProcSys, "net/ipv4/ip_forward")); strings.TrimSpace(string(b)) != "1" {
		t.Fatalf("ip_forward is %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(cfg.IPRoute2, "rt_protos.d/manx.conf")); string(b) != "70\tmanx\n" {
		t.Fatalf("manx.conf is %q", b)
	}
	if changed, err = Run(cfg); err != nil || len(changed) != 0 {
		t.Fatalf("second run: changed %q, %v; want nothing", changed, err)
	}
	if err := Undo(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.IPRoute2, "rt_protos.d/manx.conf")); !os.IsNotExist(err) {
		t.Fatalf("manx.conf is still there: %v", err)
	}
	if err := Undo(cfg); err != nil {
		t.Fatalf("second undo: %v", err)
	}
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	cfg := host(t, "1\n")
	cfg.ProcSys = filepath.Join(t.TempDir(), "absent")
	if _, err := Run(cfg); err == nil || !strings.Contains(err.Error(), "ip_forward") {
		t.Fatalf("without /proc/sys: %v; want an error that names the setting", err)
	}
}
