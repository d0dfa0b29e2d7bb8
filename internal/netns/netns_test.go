package netns

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// here names the network namespace of the calling thread: net:[4026531840].
func here(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// newNamespace returns a namespace and its name.
func newNamespace(t *testing.T) (fd int, name string) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			name, err = os.Readlink("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make a network namespace (as root): %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd, name
}

func TestEnter(t *testing.T) {
	fd, want := newNamespace(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home := here(t)
	if home == want {
		t.Fatal("the new namespace is the old one")
	}
	broken := errors.New("broken")
	for _, result := range []error{nil, broken} {
		inside := ""
		if err := Enter(fd, func() error { inside = here(t); return result }); !errors.Is(err, result) {
			t.Errorf("got %v, want %v", err, result)
		}
		if inside != want {
			t.Errorf("the function ran in %s, want %s", inside, want)
		}
		if now := here(t); now != home {
			t.Fatalf("the thread is left in %s; it came from %s", now, home)
		}
	}
}

func TestEnterWhatIsNoNamespace(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = Enter(int(f.Fd()), func() error { t.Error("it ran"); return nil })
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "enter the network namespace") {
		t.Errorf("got %v", err)
	}
}
