// Package localsock makes unix sockets that only root can reach: a directory and a
// path without rights for anybody else, and the kernel's word for who is at
// the other end.
package localsock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Listen binds a second name and renames it over path: what a killed process left
// there is replaced in one step. The directory is made, or taken from everybody but
// its owner. Closing the listener leaves the path: by then it may be the next
// process's.
func Listen(path string) (*net.UnixListener, error) {
	fail := func(err error) error { return fmt.Errorf("listen on %s: %w", path, err) }
	if err := PrivateDir(filepath.Dir(path)); err != nil {
		return nil, fail(err)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fail(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fail(err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(fail(err), l.Close(), os.Remove(tmp))
	}
	return l, nil
}

// PrivateDir makes dir with mode 0700, or gives an existing one that mode.
func PrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm() == 0o700 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("directory %s has mode %04o, want 0700: %w", dir, info.Mode().Perm(), err)
	}
	return nil
}

// PeerUID is the user that called connect(2), as the kernel recorded it
// (SO_PEERCRED, unix(7)).
func PeerUID(conn *net.UnixConn) (uint32, error) {
	cred, err := peer(conn)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, os.NewSyscallError("getsockopt SO_PEERCRED", credErr)
}
