package podnet

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/netns"
)

// namespace is an open network namespace.
type namespace struct {
	fd int
	id inode
}

// inode tells namespaces apart: one may have several names.
type inode struct{ dev, ino uint64 }

// openNamespace opens a namespace file. It returns nil without an error for what
// is none: a file that is gone, a bind mount that was taken away and left an
// empty file, a namespace of another kind. A link is not followed: no runtime
// makes one, and it would be read with the container's eyes.
func openNamespace(path string) (*namespace, error) {
	// O_NONBLOCK: opening a FIFO would wait for its writer.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if anyOf(err, unix.ENOENT, unix.ELOOP, unix.ENXIO) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	var fsinfo unix.Statfs_t
	if err := unix.Fstatfs(fd, &fsinfo); err != nil || fsinfo.Type != unix.NSFS_MAGIC {
		unix.Close(fd)
		return nil, os.NewSyscallError("statfs", err)
	}
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return nil, os.NewSyscallError("ioctl NS_GET_NSTYPE", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("stat", err)
	}
	return &namespace{fd: fd, id: inode{uint64(st.Dev), st.Ino}}, nil
}

func (n *namespace) close() { _ = unix.Close(n.fd) }

// openSocket opens an rtnetlink socket inside. A goroutine of its own, because its
// thread may have to end with it.
func (n *namespace) openSocket(l limits, buf []byte) (s *socket, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = netns.Enter(n.fd, func() error {
			var err error
			s, err = openSocket(l, buf)
			return err
		})
	}()
	<-done
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}
