package localsock

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// A second process takes the path over from the first, which then closes.
func TestListen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if d, s := mode(t, dir), mode(t, path); d != 0o700 || s != 0o600 {
		t.Errorf("directory %04o, socket %04o; want 0700 and 0600", d, s)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := second.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if uid, err := PeerUID(conn); err != nil || int(uid) != os.Getuid() {
		t.Errorf("uid %d, %v; want %d", uid, err, os.Getuid())
	}
	if _, err := Listen(filepath.Join(path, "below")); err == nil {
		t.Error("a socket below a socket")
	}
}
