package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/manx-cni/manx/test/vm"
)

// inGuest runs this very command in a guest with another kernel, and returns its exit
// code. The guest sees this machine's files; nothing it writes stays. So the images are
// unpacked before, where that takes seconds and not minutes.
func inGuest(ctx context.Context, lab, image string) int {
	fmt.Println("This kernel has no ipip: the story is told in a guest with Debian's kernel.")
	prepare := exec.CommandContext(ctx, lab, "store", "--image", image)
	prepare.Stdout, prepare.Stderr = os.Stdout, os.Stderr
	if err := prepare.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %s: %v\n", prepare, err)
		return 1
	}
	code, err := runInGuest(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return code
}

func runInGuest(ctx context.Context) (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	return vm.Run(ctx, vm.Options{
		Args: append([]string{self, "-guest"}, os.Args[1:]...), Dir: dir,
		// The Kubernetes binaries are in the user's cache.
		Env:    []string{"HOME=" + os.Getenv("HOME"), "XDG_CACHE_HOME=" + os.Getenv("XDG_CACHE_HOME")},
		Stdout: os.Stdout, Stderr: os.Stderr,
		Progress: func(line string) { fmt.Println(line) },
	})
}
