// Package guard takes down the lab of a test program that has ended, however it ended:
// killed, panicked, or out of its time. The guard is the same program started once more,
// in a process group of its own, so that what ends the tests does not end it. It waits for
// the end of its standard input, whose other end only the test program has.
//
// TestMain of the program calls Main first.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/manx-cni/manx/test/lab"
)

// env names, in a guard, the lab.
const env = "MANX_LAB_GUARD"

// limit bounds how long taking a lab down may take. It is reached only when something
// hangs; an emulated machine is slow.
const limit = 10 * time.Minute

// Main does not return in a guard.
func Main() {
	if name := os.Getenv(env); name != "" {
		os.Exit(watch(name))
	}
}

// Start starts the guard of a lab that is about to be made. down has the guard take the
// lab down, and returns once it is gone; that it is gone already is no error.
func Start(name string) (down func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the guard of lab %s: %w", name, err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), env+"="+name)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the guard of lab %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard of lab %s: %w", name, err)
	}
	return func() error { return errors.Join(pipe.Close(), cmd.Wait()) }, nil
}

// watch waits for the end of its standard input and takes the lab down.
func watch(name string) int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := lab.Down(ctx, name, nil); err != nil {
		fmt.Fprintf(os.Stderr, "take lab %s down: %v\n", name, err)
		return 1
	}
	return 0
}
