package obs

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxConns bounds the connections of one listener: about 6 MB of memory when all
	// of them stand around.
	maxConns = 512
	// settle is how long a connection is left alone after it was made, or after its
	// last answer: the time in which a client on a busy machine that has something to
	// say says it. With maxConns it bounds how fast a crowd is let through, about
	// 1,000 a second: the kernel's queue of 4,096 (net.core.somaxconn) before a probe
	// is worth 4 s.
	settle = 500 * time.Millisecond
	// overdue is how long an answer may take before its connection counts as one of a
	// client that does not read.
	overdue = 5 * time.Second
)

// crowd is a listener that has room for the next one that comes with a request. When maxConns
// connections are open, the one that has said nothing for the longest time is closed for
// the next: a thousand silent ones would else keep the kubelet's probe waiting, and a
// probe that is not answered ends the agent. A limit that lets the next one wait, or one
// for each source, does not help: a probe comes from 127.0.0.1 like everything else on
// the node.
type crowd struct {
	net.Listener
	max int

	mu    sync.Mutex
	conns map[*guest]bool
	left  chan struct{} // one has gone; holds one signal
	done  chan struct{}
	once  sync.Once
}

// guest is a connection that crowd has accepted.
type guest struct {
	net.Conn
	of *crowd

	// Of crowd.mu: since is when it came, when its last answer was written, or, while
	// it is busy, when its request was complete.
	since time.Time
	busy  bool
}

func newCrowd(l net.Listener, limit int) *crowd {
	return &crowd{Listener: l, max: limit, conns: map[*guest]bool{}, left: make(chan struct{}, 1), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &guest{Conn: conn, of: c}
	for {
		wait := c.admit(g)
		if wait == 0 {
			return g, nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.left:
		case <-c.done:
			timer.Stop()
			conn.Close()
			return nil, net.ErrClosed
		}
		timer.Stop()
	}
}

// admit takes g in, and returns how long to wait before trying again when there is no
// room and none that may be closed for it.
func (c *crowd) admit(g *guest) (wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.conns) >= c.max {
		idle, wait := c.longest(now)
		if wait > 0 {
			return wait
		}
		delete(c.conns, idle)
		idle.Conn.Close()
	}
	g.since = now
	c.conns[g] = true
	return 0
}

// longest finds the connection that may be closed first, or returns how long it takes
// until one may be: those without a request come before those that do not take their
// answer.
func (c *crowd) longest(now time.Time) (first *guest, wait time.Duration) {
	var at time.Time
	for g := range c.conns {
		from := g.since.Add(settle)
		if g.busy {
			from = g.since.Add(overdue)
		}
		if first == nil || from.Before(at) {
			first, at = g, from
		}
	}
	return first, max(0, at.Sub(now))
}

// Close implements net.Listener.
func (c *crowd) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Listener.Close()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.of.mu.Lock()
	delete(g.of.conns, g)
	g.of.mu.Unlock()
	select {
	case g.of.left <- struct{}{}:
	default:
	}
	return g.Conn.Close()
}

func (g *guest) mark(busy bool) {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	g.since, g.busy = time.Now(), busy
}

type guestKey struct{}

// introduce is an http.Server's ConnContext: by it attend knows whose request it has.
func introduce(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, guestKey{}, conn)
}

// attend says of a connection that its request is being answered.
func attend(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok {
			g.mark(true)
			defer g.mark(false)
		}
		next.ServeHTTP(w, r)
	})
}
