package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartDelay is how long a component that ended stays down.
const restartDelay = 500 * time.Millisecond

// supervise is stage two, the PID 1 proper: it keeps the components running and
// reaps every process whose parent has gone. It never returns; the machine is
// switched off by killing it.
func supervise() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	runtime.UnlockOSThread()
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	spec, err := Load(ownDir)
	if err != nil {
		log.Error("machine does not start", "error", err)
		os.Exit(1)
	}
	s := &supervisor{log: log, waiting: map[int]chan syscall.WaitStatus{}}
	for _, c := range spec.Components {
		go s.keep(c)
	}
	log.Info("machine is on", "name", spec.Hostname)
	s.reap()
}

type supervisor struct {
	log *slog.Logger

	mu      sync.Mutex // held over starting a child, so that its end is not seen before it is known
	waiting map[int]chan syscall.WaitStatus
}

// reap collects the ends of all children and orphans, for ever.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD: nothing runs right now.
			time.Sleep(20 * time.Millisecond)
		default:
			s.mu.Lock()
			ch := s.waiting[pid]
			delete(s.waiting, pid)
			s.mu.Unlock()
			if ch != nil {
				ch <- status
			}
		}
	}
}

// keep runs one component again and again.
func (s *supervisor) keep(c Component) {
	log := s.log.With("component", c.Name)
	for ; ; time.Sleep(restartDelay) {
		waitFor(c)
		pid, ended, err := s.start(c)
		if err != nil {
			log.Error("component does not start", "error", err)
			continue
		}
		log.Info("component started", "pid", pid)
		status := <-ended
		log.Warn("component ended", "pid", pid, "exit", status.ExitStatus(), "signal", status.Signal())
	}
}

func (s *supervisor) start(c Component) (int, <-chan syscall.WaitStatus, error) {
	path := SelfPath
	if !c.Self {
		var err error
		if path, err = exec.LookPath(c.Args[0]); err != nil {
			return 0, nil, err
		}
	}
	out, err := os.OpenFile(filepath.Join("/var/log", c.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, nil, err
	}
	defer out.Close()
	in, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer in.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(path, c.Args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   mergeEnv(os.Environ(), c.Env),
		Files: []uintptr{in.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", path, err)
	}
	ended := make(chan syscall.WaitStatus, 1)
	s.waiting[pid] = ended
	return pid, ended, nil
}

// mergeEnv returns base with extra's variables added or replaced.
func mergeEnv(base, extra []string) []string {
	env := slices.Clone(base)
	for _, e := range extra {
		name, _, _ := strings.Cut(e, "=")
		env = slices.DeleteFunc(env, func(b string) bool { return strings.HasPrefix(b, name+"=") })
		env = append(env, e)
	}
	return env
}
