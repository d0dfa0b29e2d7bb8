package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// What QEMU inherits, after the standard three.
const (
	initrdFD = 3 + iota
	framesFD
	consoleFD
	cardsFD // and more of them, one a card
)

// hardware is how large a guest is.
type hardware struct {
	kernel string // its file
	memory int    // MiB
	cpus   int
	cables []cable // of its network cards
}

// machine is a running QEMU.
type machine struct {
	frames  *os.File // what PID 1 sends; ends when QEMU does
	console *tail    // what the kernel and QEMU print
	kill    context.CancelFunc
	done    chan struct{} // closed when QEMU has ended
	err     error         // how; after done
}

// powerOn starts QEMU. It is killed when ctx ends, and when the calling process dies.
func powerOn(ctx context.Context, k Kernel, a accel, hw hardware, image []byte) (*machine, error) {
	qemu, err := find("qemu-system-x86_64")
	if err != nil {
		return nil, fmt.Errorf("start guest: %w", err)
	}
	var theirs [3]*os.File // QEMU's ends
	defer func() {
		for _, f := range theirs {
			if f != nil {
				f.Close()
			}
		}
	}()
	if theirs[0], err = memoryFile("initramfs", image); err != nil {
		return nil, fmt.Errorf("start guest: %w", err)
	}
	frames, other, err := socketPair("frames")
	if err != nil {
		return nil, fmt.Errorf("start guest: %w", err)
	}
	theirs[1] = other
	console, other, err := socketPair("console")
	if err != nil {
		frames.Close()
		return nil, fmt.Errorf("start guest: %w", err)
	}
	theirs[2] = other

	ctx, cancel := context.WithCancel(ctx)
	m := &machine{frames: frames, console: &tail{}, kill: cancel, done: make(chan struct{})}
	cmd := exec.CommandContext(ctx, qemu, qemuArgs(k, a, hw)...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = m.console, m.console
	cmd.ExtraFiles = theirs[:]
	for _, c := range hw.cables {
		cmd.ExtraFiles = append(cmd.ExtraFiles, c.tap)
	}
	// A group of its own: what a terminal sends to the caller's must not reach QEMU first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// The parent that a death signal is about is the thread, so it must not end earlier.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			m.err = cmd.Wait()
		}
		close(m.done)
	}()
	if err := <-started; err != nil {
		cancel()
		frames.Close()
		console.Close()
		return nil, fmt.Errorf("start guest: %w", err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		defer console.Close()
		_, _ = io.Copy(m.console, console) // It ends with QEMU, in EOF or a reset.
	}()
	m.console.drained = drained
	return m, nil
}

// powerOff ends QEMU for certain and returns when it is gone; a second call does nothing.
func (m *machine) powerOff() {
	m.kill()
	<-m.done
	<-m.console.drained
	m.frames.Close()
}

// ended says how QEMU ended, after powerOff.
func (m *machine) ended() string {
	var exit *exec.ExitError
	if errors.As(m.err, &exit) {
		return exit.String()
	}
	if m.err != nil {
		return m.err.Error()
	}
	return "ended by itself"
}

func qemuArgs(k Kernel, a accel, hw hardware) []string {
	fd := func(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }
	args := append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"}, a.args...)
	args = append(args,
		"-m", strconv.Itoa(hw.memory), "-smp", strconv.Itoa(hw.cpus),
		"-kernel", hw.kernel, "-initrd", fd(initrdFD),
		// A panic reboots at once, which -no-reboot makes QEMU's end. A CPU of the guest that does nothing
		// else for a minute (twice the threshold) is one, so that a guest that hangs says where.
		"-append", strings.TrimSpace("console=ttyS0 quiet softlockup_panic=1 watchdog_thresh=30 panic=-1 "+
			"random.trust_cpu=on mitigations=off "+a.kernel),
		"-chardev", "socket,id=console,fd="+strconv.Itoa(consoleFD), "-serial", "chardev:console",
		"-device", "virtio-serial-pci,max_ports=2",
		"-chardev", "socket,id=frames,fd="+strconv.Itoa(framesFD), "-device", "virtserialport,nr=1,chardev=frames",
	)
	for n, c := range hw.cables {
		args = append(args, c.args(n, cardsFD+n)...)
	}
	return append(append(args, share("host", "/")...), share("kernel", k.Dir)...)
}

// share exports a directory read-only. The ids of its files are shown as they are.
func share(tag, dir string) []string {
	return []string{
		"-fsdev", "local,id=" + tag + ",path=" + filepath.Clean(dir) + ",security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=" + tag + ",mount_tag=" + tag,
	}
}

// memoryFile makes a file without a name.
func memoryFile(label string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(label, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), label)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("write file in memory: %w", err)
	}
	return f, nil
}

func socketPair(label string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), label), os.NewFile(uintptr(fds[1]), label), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu      sync.Mutex
	buf     []byte
	drained <-chan struct{} // closed when nothing more comes from the serial line
}

// tailSize is about three hundred lines, enough for an oops and what led to it.
const tailSize = 32 << 10

// tailLines are shown.
const tailLines = 40

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

// String returns the last lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return lastLines(t.buf, tailLines)
}

func lastLines(b []byte, n int) string {
	lines := bytes.Split(bytes.TrimRight(b, "\r\n"), []byte("\n"))
	lines = lines[max(0, len(lines)-n):]
	for i := range lines {
		lines[i] = bytes.TrimRight(lines[i], "\r")
	}
	return string(bytes.Join(lines, []byte("\n")))
}
