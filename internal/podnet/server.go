package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/manx-cni/manx/internal/localsock"
)

// Config is what [Serve] needs to know.
type Config struct {
	// Socket is the path to listen on. A path left behind is replaced.
	Socket string
	// NetNSDir is where the container runtime keeps the network namespaces of
	// pods, one bind-mounted file each: /var/run/netns.
	NetNSDir string
	// Log gets refused connections, and a line for each request that changed pods.
	Log *slog.Logger
}

// limits bound what a client or a namespace can take; tests shorten them.
type limits struct {
	talk      time.Duration // for a client to send its request, or to take the answer
	namespace time.Duration // for everything about one namespace
	routes    int           // IPv4 routes of a namespace that are read, of all tables
}

var defaultLimits = limits{talk: 5 * time.Second, namespace: 2 * time.Second, routes: 1 << 16}

type server struct {
	limits
	Config
}

// Serve answers requests, one after the other, until ctx ends, and then returns
// nil. It returns an error only when it cannot listen. It must run in the node's
// network namespace, with CAP_SYS_ADMIN and CAP_NET_ADMIN.
func Serve(ctx context.Context, cfg Config) error {
	s := &server{limits: defaultLimits, Config: cfg}
	return s.serve(ctx)
}

func (s *server) serve(ctx context.Context) error {
	l, err := localsock.Listen(s.Socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			_ = l.Close()
			return nil
		case err != nil:
			// Out of file descriptors, most likely: wait for some to be closed.
			s.Log.Warn("accept on the pod-network socket", "path", s.Socket, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		default:
			s.converse(ctx, conn)
			conn.Close()
		}
	}
}

// converse answers one connection. Those after it wait in the socket's backlog,
// so two requests never work on the same pod.
func (s *server) converse(ctx context.Context, conn *net.UnixConn) {
	// A client that sends nothing must not delay the stop.
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	if err := conn.SetDeadline(time.Now().Add(s.talk)); err != nil || ctx.Err() != nil {
		return
	}
	report, err := s.handle(ctx, conn)
	if errors.Is(err, io.EOF) {
		return // a client that left, or only looked whether somebody listens
	}
	r := reply{Report: report}
	if err != nil {
		r.Error = err.Error()
	}
	if conn.SetWriteDeadline(time.Now().Add(s.talk)) == nil {
		_ = json.NewEncoder(conn).Encode(r) // a client that is gone asks again
	}
}

func (s *server) handle(ctx context.Context, conn *net.UnixConn) (Report, error) {
	var req request
	if err := json.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&req); err != nil {
		return Report{}, fmt.Errorf("read the request: %w", err)
	}
	// Only now: refused before it has sent, a client would never see why.
	if uid, err := localsock.PeerUID(conn); err != nil || uid != 0 {
		s.Log.Warn("refused a connection to the pod-network socket: not root", "uid", uid, "error", err)
		return Report{}, fmt.Errorf("the pod-network process talks to root only, you are uid %d", uid)
	}
	if err := req.validate(); err != nil {
		return Report{}, err
	}
	report, err := s.setMTU(ctx, req.MTU)
	if err != nil {
		return report, fmt.Errorf("set the MTU of running pods to %d: %w", req.MTU, err)
	}
	if report.Changed > 0 {
		s.Log.Info("set the MTU of running pods", "mtu", req.MTU, "pods", report.Pods, "changed", report.Changed)
	}
	return report, nil
}
