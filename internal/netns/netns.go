// Package netns runs a function in another network namespace. The CNI plugin enters
// pods with it to configure their interface, internal/podnet to lower and raise their
// route MTU. It opens no namespace: what a path may be is for the caller to judge.
//
// The package is linked into the CNI plugin and imports nothing but the system calls.
package netns

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Enter runs do on a thread that is in the network namespace fd (setns(2), which needs
// CAP_SYS_ADMIN), and takes the thread back. A socket stays in the namespace in which
// it was opened, and /proc/sys/net shows that of the task that opens it, so do opens
// what the caller works with, and does nothing longer. It starts no goroutine that
// counts on the namespace: that would run on another thread.
func Enter(fd int, do func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the node's network namespace: %w", err)
	}
	defer unix.Close(home)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w (the process needs CAP_SYS_ADMIN)", err)
	}
	err = do()
	if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that it ends with its goroutine and no
		// other code ever runs in the wrong namespace.
		return errors.Join(err, fmt.Errorf("return to the node's network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}
