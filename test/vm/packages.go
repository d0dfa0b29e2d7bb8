package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// needs are the programs a guest is made with, and the Debian packages that have them.
var needs = []struct{ program, pkg string }{
	{"qemu-system-x86_64", "qemu-system-x86"},
	{"busybox", "busybox-static"},
	{"depmod", "kmod"},
	{"xz", "xz-utils"},
}

// Ready makes sure that guests can run here. On Debian it installs the packages that
// are missing, which takes root; where it cannot, the error names them.
func Ready(ctx context.Context, progress func(string)) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("guests are made for amd64 hosts; this one is %s", runtime.GOARCH)
	}
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("programs for guests are missing; on Debian install them as root with: apt-get install %s", names)
	}
	progress("installing Debian packages: " + names)
	install := append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)
	if err := aptOrUpdate(ctx, "", install...); err != nil {
		return fmt.Errorf("install packages (by hand: apt-get update && apt-get install %s): %w", names, err)
	}
	if still := missingPackages(); len(still) > 0 {
		return fmt.Errorf("apt-get installed %s, but their programs are still missing", strings.Join(still, " "))
	}
	return nil
}

func missingPackages() []string {
	var pkgs []string
	for _, n := range needs {
		if _, err := find(n.program); err != nil {
			pkgs = append(pkgs, n.pkg)
		}
	}
	return pkgs
}

// find looks for a program in $PATH and in the administrator's directories, which a user's $PATH lacks.
func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, sbinErr := exec.LookPath(filepath.Join(dir, program)); sbinErr == nil {
			return path, nil
		}
	}
	return "", err
}

// aptOrUpdate runs apt-get in dir; when that fails, once more with new package lists,
// because the present ones may be older than the archive.
func aptOrUpdate(ctx context.Context, dir string, args ...string) error {
	if apt(ctx, dir, args...) == nil {
		return nil
	}
	if err := apt(ctx, "", "update"); err != nil {
		return err
	}
	return apt(ctx, dir, args...)
}

func apt(ctx context.Context, dir string, args ...string) error {
	args = append([]string{"-o", "DPkg::Lock::Timeout=120"}, args...)
	_, err := output(ctx, dir, "apt-get", args...)
	return err
}

// output runs a program to its end; the error has what it said.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, lastLines(slices.Concat(out, exit.Stderr), 10))
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), nil
}
