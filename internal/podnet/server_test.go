package podnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// start serves the directory on a socket of its own until the test ends.
func start(t *testing.T, dir string, change ...func(*limits)) (socket string, stop func()) {
	t.Helper()
	run, err := os.MkdirTemp("", "manx") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	s := newServer(dir)
	for _, f := range change {
		f(&s.limits)
	}
	s.Socket = filepath.Join(run, "run", "pod-network.sock")
	return s.Socket, startAt(t, s)
}

func startAt(t *testing.T, s *server) (stop func()) {
	t.Helper()
	before, _ := os.Stat(s.Socket)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx) }()
	nltest.Eventually(t, "the socket is there", func() bool {
		now, err := os.Stat(s.Socket)
		return err == nil && !os.SameFile(before, now)
	})
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the server does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestServe(t *testing.T) {
	p, q := newPod(t, "cali0", 1500), newPod(t, "cali1", 1400)
	socket, stop := start(t, mountDir(t, p.ns, q.ns))
	if info, err := os.Stat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v; want mode 0600", info.Mode(), err)
	}
	for _, want := range []string{"{2 2 []}", "{2 0 []}"} {
		r, err := SetMTU(t.Context(), socket, 1480)
		if err != nil || fmt.Sprint(r) != want {
			t.Errorf("SetMTU: %v, %v; want %s", r, err, want)
		}
	}
	for _, pod := range []testPod{p, q} {
		if got := pod.pathMTU(t); got != 1480 {
			t.Errorf("path MTU %d, want 1480", got)
		}
	}
	stop()
	if _, err := SetMTU(t.Context(), socket, 1480); err == nil || !strings.Contains(err.Error(), "nobody answers on "+socket) {
		t.Errorf("SetMTU without a server: %v", err)
	}
	// The path that is left is taken over.
	s := newServer(t.TempDir())
	s.Socket = socket
	startAt(t, s)
	if r, err := SetMTU(t.Context(), socket, 1480); err != nil || r.Pods != 0 {
		t.Errorf("SetMTU: %v, %v", r, err)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	socket, _ := start(t, t.TempDir())
	for raw, want := range map[string]string{
		`{"mtu":575}`:    "want 576 to 65520 bytes",
		`{"mtu":65521}`:  "want 576 to 65520 bytes",
		`{"mtu":-1}`:     "want 576 to 65520 bytes",
		`{}`:             "want 576 to 65520 bytes",
		`{"mtu":"1480"}`: "cannot unmarshal string",
		"nonsense":       "invalid character",
		`{"x":"` + strings.Repeat("x", maxRequest): "unexpected EOF",
	} {
		conn := connect(t, socket)
		answer := make([]byte, 1024)
		_, err := conn.Write([]byte(raw))
		n, readErr := conn.Read(answer)
		if err = errors.Join(err, readErr); err != nil || !strings.Contains(string(answer[:n]), want) {
			t.Errorf("%.20s: %s, %v; want %q", raw, answer[:n], err, want)
		}
	}
	if _, err := SetMTU(t.Context(), socket, 100); err == nil {
		t.Error("the client lets 100 pass")
	}
}

func TestOnlyRoot(t *testing.T) {
	p := newPod(t, "cali0", 1500)
	socket, _ := start(t, mountDir(t, p.ns))
	dir := filepath.Dir(socket)
	ask := func() (err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // this thread alone is nobody, and ends with its goroutine
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				err = errno
				return
			}
			_, err = SetMTU(t.Context(), socket, 1480)
		}()
		<-done
		return err
	}
	if err := ask(); !errors.Is(err, unix.EACCES) {
		t.Errorf("uid 65534 connects: %v, want permission denied", err)
	}
	for path, mode := range map[string]fs.FileMode{filepath.Dir(dir): 0o755, dir: 0o755, socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "talks to root only, you are uid 65534") {
		t.Errorf("uid 65534 asks: %v, want a refusal", err)
	}
	if got := p.pathMTU(t); got != 1500 {
		t.Errorf("path MTU %d, want 1500", got)
	}
}

// Calls that come together are worked on one after the other: every change is
// counted by exactly one.
func TestCallsSerialise(t *testing.T) {
	p := newPod(t, "cali0", 1500)
	socket, _ := start(t, mountDir(t, p.ns))
	w := p.watch(t)
	var mu sync.Mutex
	changed := 0
	var calls sync.WaitGroup
	for i := range 20 {
		calls.Go(func() {
			r, err := SetMTU(t.Context(), socket, 1400+10*(i%2))
			mu.Lock()
			defer mu.Unlock()
			changed += r.Changed
			if err != nil || r.Pods != 1 || len(r.Failed) > 0 {
				t.Errorf("SetMTU: %+v, %v", r, err)
			}
		})
	}
	calls.Wait()
	if events := w.take(t); len(events) != changed {
		t.Errorf("%d events for %d changes: %q", len(events), changed, events)
	}
	if got := p.pathMTU(t); got != 1400 && got != 1410 {
		t.Errorf("path MTU %d", got)
	}
}

// A client that says nothing is answered when its time is up, and the next one
// after it.
func TestSilentClient(t *testing.T) {
	socket, _ := start(t, t.TempDir(), func(l *limits) { l.talk = 200 * time.Millisecond })
	silent := connect(t, socket)
	if _, err := SetMTU(t.Context(), socket, 1480); err != nil {
		t.Fatal(err)
	}
	raw, err := silent.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1024)
	n := 0
	if controlErr := raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), answer, unix.MSG_DONTWAIT) }); controlErr != nil {
		t.Fatal(controlErr)
	}
	if err != nil || !strings.Contains(string(answer[:n]), "i/o timeout") {
		t.Errorf("the silent client got %q, %v before the next one was answered", answer[:n], err)
	}
}

// Nor does it delay the stop, or that another gives up.
func TestSilentClientAtTheEnd(t *testing.T) {
	socket, stop := start(t, t.TempDir(), func(l *limits) { l.talk = time.Hour })
	connect(t, socket)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := SetMTU(ctx, socket, 1480)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("SetMTU: %v, want that it was canceled", err)
	}
	stop()
}

func connect(t *testing.T, socket string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
