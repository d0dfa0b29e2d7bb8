package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// init turns the process into the guest's PID 1 when stage one started it as that.
// It happens here, before main, so that every program that runs guests can be it.
func init() {
	if os.Getpid() == 1 && len(os.Args) == 1 && os.Args[0] == initPath {
		guestMain()
	}
}

// endWait is how long a command has from SIGTERM to its end.
const endWait = 3 * time.Second

// guestMain is stage two. It never returns: the host switches the guest off when it
// has read the last frame. If it fails before it has a port it ends, the kernel panics
// and the host shows the console.
func guestMain() {
	// Taken and dropped; the command would inherit signals that are ignored, and a shell
	// can set no trap for those.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	port, err := setUp()
	if err != nil {
		fmt.Println("guest:", err)
		os.Exit(1)
	}
	out := &framer{w: port}
	kind, payload, err := execute(out)
	if err == nil {
		err = out.send(kind, payload)
	} else {
		err = out.send(frameFailure, []byte(err.Error()))
	}
	if err != nil {
		fmt.Println("guest: send to the host:", err)
		os.Exit(1)
	}
	select {}
}

// execute runs the command and sends its output; what it returns is the last frame.
func execute(out *framer) (kind byte, payload []byte, err error) {
	b, err := os.ReadFile(specPath)
	if err != nil {
		return 0, nil, err
	}
	var s spec
	if err := json.Unmarshal(b, &s); err != nil {
		return 0, nil, fmt.Errorf("read what to run: %w", err)
	}
	if err := nameUplinks(s.Cards); err != nil {
		return 0, nil, err
	}
	if err := out.send(frameUp, nil); err != nil {
		return 0, nil, err
	}
	pid, copied, err := start(out, s)
	if err != nil {
		return 0, nil, err
	}
	uptime, err := sinceBoot()
	if err != nil {
		return 0, nil, err
	}
	var once sync.Once
	timedOut := make(chan struct{})
	timer := time.AfterFunc(time.Duration(s.Seconds*float64(time.Second))-uptime, func() {
		once.Do(func() { close(timedOut) })
		_ = unix.Kill(-pid, unix.SIGTERM) // It has just ended if this fails.
		time.Sleep(endWait)
		_ = unix.Kill(-pid, unix.SIGKILL)
	})
	status := reap(pid)
	timer.Stop()
	// Only PID 1 is left then, so that the pipes end even if the command left something behind that has them.
	_ = unix.Kill(-1, unix.SIGKILL)
	copied()
	select {
	case <-timedOut:
		return frameTimeout, nil, nil
	default:
	}
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	return frameExit, []byte(strconv.Itoa(code)), nil
}

// start starts the command; copied returns when all its output is sent.
func start(out *framer, s spec) (pid int, copied func(), err error) {
	env := setEnv(s.Env)
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return 0, nil, err
			}
		}
	}
	if err := os.Chdir(s.Dir); err != nil {
		return 0, nil, err
	}
	path, err := exec.LookPath(s.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return 0, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	var wg sync.WaitGroup
	files := []*os.File{null}
	for _, kind := range []byte{frameStdout, frameStderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, nil, err
		}
		defer w.Close()
		files = append(files, w)
		wg.Go(func() {
			defer r.Close()
			if err := out.copyFrom(r, kind); err != nil {
				fmt.Println("guest: send to the host:", err)
			}
		})
	}
	p, err := os.StartProcess(path, s.Args, &os.ProcAttr{
		Dir: s.Dir, Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, err
	}
	pid = p.Pid
	return pid, wg.Wait, p.Release() // reap waits for it.
}

// reap collects the ends of all processes until pid's.
func reap(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		if got, err := syscall.Wait4(-1, &status, 0, nil); err == nil && got == pid {
			return status
		}
	}
}

func sinceBoot() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0, fmt.Errorf("read the time since boot: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// labDir is where labs are in the guest. Layers of containers cannot lie on the root,
// which is an overlay itself. Labs have a directory in it: the last one to go removes that.
const labDir = "/var/lib/manx-vm"

// guestMounts are made in this order. They cover what the host has there.
var guestMounts = []struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "ptmxmode=666,mode=620,gid=5"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=700"},
	{"tmpfs", labDir, "tmpfs", 0, "mode=755,size=80%,nr_inodes=0"},
}

// guestSysctls are where Debian's kernel starts lower than what several kubelets need together.
var guestSysctls = map[string]string{
	"fs/inotify/max_user_instances": "8192",
	"fs/inotify/max_user_watches":   "1048576",
	"kernel/keys/root_maxkeys":      "1000000",
	"kernel/keys/root_maxbytes":     "25000000",
}

// openFiles is what a service manager gives: PID 1's own limit is 4096.
const openFiles = 1 << 20

// setUp makes the guest an ordinary machine and opens the port to the host.
func setUp() (*os.File, error) {
	for _, m := range guestMounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := os.MkdirAll("/run/lock", 0o1777); err != nil {
		return nil, fmt.Errorf("make /run/lock: %w", err)
	}
	for name, value := range guestSysctls {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return nil, fmt.Errorf("set sysctl %s: %w", name, err)
		}
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return nil, fmt.Errorf("set host name: %w", err)
	}
	limit := syscall.Rlimit{Cur: openFiles, Max: openFiles}
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("raise the limit of open files: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("set loopback up: %w", err)
	}
	if err := stampPackets(); err != nil {
		return nil, fmt.Errorf("have packets stamped: %w", err)
	}
	return openPort()
}

// stampPackets has the kernel note when packets come in, for as long as the guest runs, by
// a socket that asks for it and stays open. Every ping asks for it as well, and the kernel
// writes over its own code on the way of all packets when the first one does and when the
// last one has ended (netstamp_needed_key). QEMU 7.2 without KVM loses such a write now and
// then: the other CPU stays at that instruction of netif_receive_skb_list_internal for
// ever, as the kernel's watchdog has shown.
func stampPackets() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// openPort opens the one virtio port; the first number of its name depends on the other virtio devices.
func openPort() (*os.File, error) {
	const pattern = "/dev/vport*p1"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ports, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		if len(ports) == 1 {
			return os.OpenFile(ports[0], os.O_WRONLY, 0)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("want one port %s to the host, there are %d", pattern, len(ports))
		}
	}
}
