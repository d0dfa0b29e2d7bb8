package nodeapi

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/manx-cni/manx/internal/localsock"
)

// limits are the server's bounds; tests shorten them.
type limits struct {
	conns   int           // conversations at a time; further ones wait in the socket's backlog and hear nothing
	frame   time.Duration // for a client to send its request
	ready   time.Duration // between the answer to add and ready
	work    time.Duration // for one handler call
	undo    time.Duration // for one Abort when the server is being stopped
	busy    time.Duration // between signs of life
	drain   time.Duration // for running conversations when the server is stopped
	retries time.Duration // between replays of deferred DELs
}

// Limit is how long the agent works on one request, the wait for others that come
// first included. It is below the [Deadline] of the client, so that the client hears
// what was waited for.
const Limit = 100 * time.Second

// Deadline is how long a CNI verb may take in all: just below the two minutes that the
// kubelet gives a request of the container runtime (runtimeRequestTimeout; twice that
// for starting a pod), so that it is our error that the pod's event shows.
const Deadline = 110 * time.Second

var defaultLimits = limits{
	conns:   512, // four times the pods of a node: all of them may wait for a slow API server
	frame:   5 * time.Second,
	ready:   30 * time.Second,
	work:    Limit,
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
// and returns nil. It returns an error only when it cannot listen.
func Serve(ctx context.Context, path string, h Handler, log *slog.Logger) error {
	s := &server{limits: defaultLimits, handler: h, log: log, deferred: DeferredDir(path)}
	return s.serve(ctx, path)
}

func (s *server) serve(ctx context.Context, path string) error {
	l, err := localsock.Listen(path)
	if err != nil {
		return err
	}
	// Conversations outlive ctx by the drain time.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	var background, talks sync.WaitGroup
	background.Go(func() { s.replayUntilDone(ctx) })
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() { _ = l.Close(); close(closed) })

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

	// Accept may return a moment before Close has closed the socket: who dials after
	// Serve has returned must not get through.
	<-closed
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
