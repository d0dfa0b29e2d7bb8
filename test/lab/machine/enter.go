package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab/netns"
	"github.com/manx-cni/manx/test/lab/proc"
)

// Place is where a command runs: in all the namespaces of a machine, or, when
// Init is zero, in the network namespace at NetNS with the host's files.
type Place struct {
	Init  proc.ID
	NetNS string
}

// Command is a command to run in a Place.
type Command struct {
	Args           []string
	Env            []string // added to PATH, HOME and TERM
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a command that was started in a Place.
type Process struct {
	pid  int
	done chan struct{}
	err  error
}

// PID is the process's id as the caller's PID namespace counts.
func (p *Process) PID() int { return p.pid }

// Wait returns when the command has ended and its output is written; the error is
// an *exec.ExitError when it ended badly.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Done is closed when the command has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the process.
func (p *Process) Signal(sig unix.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return unix.Kill(p.pid, sig)
	}
}

// Start runs a command in place. The command is killed when ctx ends and when the
// calling process dies.
func (pl Place) Start(ctx context.Context, c Command) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("no command given")
	}
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		// The thread's namespaces are changed for good: never unlocked, it ends with the goroutine.
		runtime.LockOSThread()
		if err := pl.enter(); err != nil {
			started <- err
			return
		}
		cmd := pl.command(ctx, c)
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("run %s: %w", c.Args[0], err)
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (pl Place) command(ctx context.Context, c Command) *exec.Cmd {
	// setpriv asks for the parent-death signal from inside: os/exec's own Pdeathsig
	// kills a child at once whose parent is outside its PID namespace.
	args := append([]string{"--pdeathsig", "KILL", "--"}, c.Args...)
	cmd := exec.CommandContext(ctx, "setpriv", args...)
	cmd.Path, cmd.Err = "/usr/bin/setpriv", nil
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.WaitDelay = 2 * time.Second
	if pl.Init.PID != 0 {
		cmd.Dir = "/"
		cmd.Env = []string{"PATH=" + Path, "HOME=/root", "LANG=C.UTF-8"}
		if term := os.Getenv("TERM"); term != "" {
			cmd.Env = append(cmd.Env, "TERM="+term)
		}
	} else {
		cmd.Env = os.Environ()
	}
	cmd.Env = mergeEnv(cmd.Env, c.Env)
	return cmd
}

// enter moves the calling thread, which must be locked and is not to be used for anything else later.
func (pl Place) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("detach thread: %w", err)
	}
	if pl.Init.PID == 0 {
		return pl.enterNetNS()
	}
	if !pl.Init.Alive() {
		return fmt.Errorf("machine is off: its PID 1, process %d, has ended", pl.Init.PID)
	}
	fd, err := unix.PidfdOpen(pl.Init.PID, 0)
	if err != nil {
		return fmt.Errorf("open PID 1 of the machine: %w", err)
	}
	defer unix.Close(fd)
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID |
		unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Setns(fd, all); err != nil {
		return fmt.Errorf("enter the machine's namespaces: %w", err)
	}
	return nil
}

// enterNetNS does what "ip netns exec" does: the namespace, and a /sys that shows it.
func (pl Place) enterNetNS() error {
	if err := netns.Join(pl.NetNS); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return nil
}
