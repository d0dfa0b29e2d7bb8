package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// limits are the server's bounds; tests shorten them.
type limits struct {
	conns   int           // conversations at a time; further ones wait in the socket's backlog
	frame   time.Duration // for a client to send its request
	ready   time.Duration // between the answer to add and ready
	work    time.Duration // for one handler call
	undo    time.Duration // for one Abort
	busy    time.Duration // between signs of life
	drain   time.Duration // for running conversations when the server is stopped
	retries time.Duration // between replays of deferred DELs
}

var defaultLimits = limits{
	conns:   128,
	frame:   5 * time.Second,
	ready:   30 * time.Second,
	work:    30 * time.Second,
	undo:    10 * time.Second,
	busy:    500 * time.Millisecond,
	drain:   2 * time.Second,
	retries: 30 * time.Second,
}

type server struct {
	limits
	handler  Handler
	log      *slog.Logger
	deferred string // directory of the DELs to replay
	locks    keyLocks
}

// Serve listens on path until ctx ends and hands requests to h. It then lets
// running conversations finish for two seconds, undoes what they did not finish,
// and returns nil. It returns an error only when it can not listen.
func Serve(ctx context.Context, path string, h Handler, log *slog.Logger) error {
	s := &server{limits: defaultLimits, handler: h, log: log, deferred: DeferredDir(path)}
	return s.serve(ctx, path)
}

func (s *server) serve(ctx context.Context, path string) error {
	l, err := listen(path)
	if err != nil {
		return err
	}
	// Conversations outlive ctx by the drain time.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	var background, talks sync.WaitGroup
	background.Go(func() { s.replayUntilDone(ctx) })
	context.AfterFunc(ctx, func() { _ = l.Close() })

	slots := make(chan struct{}, s.conns)
	for {
		slots <- struct{}{}
		conn, err := l.AcceptUnix()
		if err != nil {
			<-slots
			if ctx.Err() != nil {
				break
			}
			// Out of file descriptors, most likely: wait for some to be closed.
			s.log.Warn("accept on the node socket", "path", path, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		talks.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			s.converse(ctx, work, conn)
		})
	}

	force := time.AfterFunc(s.drain, stopWork)
	talks.Wait()
	force.Stop()
	background.Wait()
	return nil
}

// replayUntilDone replays deferred DELs at start and, while some could not be
// done, from time to time.
func (s *server) replayUntilDone(ctx context.Context) {
	tick := time.NewTicker(s.retries)
	defer tick.Stop()
	said := ""
	for {
		err := replay(ctx, s.deferred, s.lockedDel)
		if err == nil {
			said = ""
		} else if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			s.log.Warn("deferred DELs remain; retrying", "dir", s.deferred, "every", s.retries, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *server) lockedDel(ctx context.Context, req DelRequest) error {
	unlock, err := s.locks.lock(ctx, req.ContainerID)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, s.work)
	defer cancel()
	return s.handler.Del(ctx, req)
}

// listen binds a second name and renames it over path. Closing the listener
// leaves the path: by then it may be another agent's.
func listen(path string) (*net.UnixListener, error) {
	if err := privateDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close(), os.Remove(tmp))
	}
	return l, nil
}

// privateDir makes dir, or takes an existing one from everybody but its owner.
func privateDir(dir string) error {
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

// peerUID is the user that called connect(2), as the kernel recorded it.
func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, os.NewSyscallError("getsockopt SO_PEERCRED", credErr)
	}
	return cred.Uid, nil
}
