package nodeapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/manx-cni/manx/internal/localsock"
	"github.com/manx-cni/manx/internal/progress"
)

// conversation is the server's end of one connection.
type conversation struct {
	*server
	conn *net.UnixConn
	r    *bufio.Reader

	waits progress.Report // what the work on the request waits for

	mu    sync.Mutex  // guards writes: answers, and busy frames from the timer
	alive *time.Timer // nil while no request is being worked on
}

// converse answers one connection. It stops waiting for a request when serve
// ends; what is under way continues until work ends.
func (s *server) converse(serve, work context.Context, conn *net.UnixConn) {
	c := &conversation{server: s, conn: conn, r: bufio.NewReaderSize(lateReader{conn}, 2048)}
	uid, err := localsock.PeerUID(conn)
	if err != nil || uid != 0 {
		s.log.Warn("refused a connection to the node socket: not root", "uid", uid, "error", err)
		c.fail(Errorf(CodeIO, "the Manx agent talks to root only, you are uid %d", uid))
		c.swallow()
		return
	}
	// Closing the connection is what ends every read below when time is up.
	defer context.AfterFunc(work, func() { _ = conn.Close() })()

	var req request
	if err := c.first(serve, &req); err != nil {
		if serve.Err() == nil && !isGone(err) {
			c.fail(Errorf(CodeDecoding, "read the request: %v", err))
		}
		return
	}
	c.dispatch(progress.Into(work, &c.waits), req)
}

func (c *conversation) dispatch(ctx context.Context, req request) {
	c.startBusy()
	defer c.stopBusy()
	switch req.Op {
	case opAdd:
		var body AddRequest
		if c.decode(req, &body, &body.Endpoint) {
			c.add(ctx, body)
		}
	case opDel:
		var body DelRequest
		if c.decode(req, &body, &body.Endpoint) {
			c.locked(ctx, body.ContainerID, func(ctx context.Context) error { return c.handler.Del(ctx, body) })
		}
	case opCheck:
		var body CheckRequest
		if c.decode(req, &body, &body.Endpoint) {
			c.locked(ctx, body.ContainerID, func(ctx context.Context) error { return c.handler.Check(ctx, body) })
		}
	case opStatus:
		ctx, cancel := context.WithTimeout(ctx, c.work)
		defer cancel()
		body, err := c.handler.Status(ctx)
		c.answer(body, err)
	case opBGP:
		var body BGPRequest
		if err := json.Unmarshal(req.Body, &body); err != nil {
			c.fail(Errorf(CodeDecoding, "decode the body of %s: %v", req.Op, err))
			return
		}
		ctx, cancel := context.WithTimeout(ctx, c.work)
		defer cancel()
		said, err := c.handler.BGP(ctx, body)
		c.answer(said, err)
	case opPing:
		c.answer(nil, nil)
	default:
		c.fail(Errorf(CodeDecoding, "request %.32q: want add, del, check, status, bgp or ping first", req.Op))
	}
}

// locked answers one request about one container.
func (c *conversation) locked(ctx context.Context, id string, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, c.work)
	defer cancel()
	unlock, err := c.locks.lock(ctx, id)
	if err != nil {
		c.fail(err)
		return
	}
	defer unlock()
	c.answer(nil, do(ctx))
}

// add is the two-step conversation. The container stays locked throughout: a DEL
// that comes meanwhile waits for the ADD to be finished or undone.
func (c *conversation) add(ctx context.Context, req AddRequest) {
	if req.Pod == "" || req.HostIface == "" {
		c.fail(Errorf(CodeInvalidEnv, "add without a pod name or a host interface name"))
		return
	}
	wait, cancel := context.WithTimeout(ctx, c.work)
	defer cancel()
	unlock, err := c.locks.lock(wait, req.ContainerID)
	if err != nil {
		c.fail(err)
		return
	}
	defer unlock()

	// A DEL of an earlier life of this container must not come after this ADD.
	for _, record := range []string{recordOf(req.Endpoint), req.ContainerID} {
		if err := replayOne(wait, c.deferred, record, c.handler.Del); err != nil {
			c.fail(err)
			return
		}
	}
	addrs, err := c.handler.Add(wait, req)
	if !c.answer(addrs, err) {
		if err == nil {
			c.abort(ctx, req, "the plugin was gone before it got its address")
		}
		return
	}
	c.finishAdd(ctx, req)
}

// finishAdd waits for ready. Whatever else comes, or nothing, undoes the ADD.
func (c *conversation) finishAdd(ctx context.Context, req AddRequest) {
	var step request
	if err := c.read(&step, c.ready); err != nil {
		c.abort(ctx, req, "no ready from the plugin: "+err.Error())
		return
	}
	c.startBusy()
	switch step.Op {
	case opReady:
		var body ReadyRequest
		err := json.Unmarshal(step.Body, &body)
		if err == nil {
			err = body.Validate()
		}
		if err == nil && (body.ID() != req.ID() || body.HostIface != req.HostIface) {
			err = Errorf(CodeDecoding, "ready names another endpoint than add")
		}
		if err == nil {
			work, cancel := context.WithTimeout(ctx, c.work)
			err = c.handler.Ready(work, body)
			cancel()
		}
		c.answer(nil, err)
		if err == nil {
			return
		}
		// The plugin removes the interface, then says abort or goes away; the
		// address is released only after that.
		var last request
		_ = c.read(&last, c.ready)
		c.startBusy()
		if err := c.abort(ctx, req, err.Error()); last.Op == opAbort {
			c.answer(nil, err)
		}
	case opAbort:
		c.answer(nil, c.abort(ctx, req, ""))
	default:
		c.fail(Errorf(CodeDecoding, "request %.32q: want ready or abort after add", step.Op))
		c.abort(ctx, req, "unexpected request after add")
	}
}

// abort undoes an ADD also when the server is being stopped, but is in a hurry then.
func (c *conversation) abort(ctx context.Context, req AddRequest, why string) error {
	stop := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(stop), c.work)
	defer cancel()
	defer context.AfterFunc(stop, func() { time.AfterFunc(c.undo, cancel) })()
	err := c.handler.Abort(ctx, req)
	if why != "" || err != nil {
		c.log.Warn("undid an unfinished ADD", "container", req.ContainerID,
			"namespace", req.Namespace, "pod", req.Pod, "why", why, "error", err)
	}
	return err
}

// decode reads and checks a request's body, and answers when it is wrong.
func (c *conversation) decode(req request, body any, ep *Endpoint) bool {
	err := json.Unmarshal(req.Body, body)
	if err != nil {
		err = Errorf(CodeDecoding, "decode the body of %s: %v", req.Op, err)
	} else {
		err = ep.Validate()
	}
	if err != nil {
		c.fail(err)
		return false
	}
	return true
}

// first reads the opening request, and stops waiting for it when serve ends.
func (c *conversation) first(serve context.Context, into *request) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.frame)); err != nil {
		return err
	}
	defer context.AfterFunc(serve, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })()
	return readFrame(c.r, maxRequest, into)
}

func (c *conversation) read(into *request, within time.Duration) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	return readFrame(c.r, maxRequest, into)
}

// swallow reads what the client was about to send, for a moment: closed before that,
// the connection would fail its write, and it would never look for the answer.
func (c *conversation) swallow() {
	if c.conn.SetReadDeadline(time.Now().Add(refusalLinger)) == nil {
		_, _ = io.CopyN(io.Discard, c.conn, maxRequest)
	}
}

const refusalLinger = 500 * time.Millisecond

func (c *conversation) fail(err error) { c.answer(nil, err) }

// answer sends the outcome and reports whether the client can have got it.
func (c *conversation) answer(body any, err error) bool {
	var r reply
	if err == nil && body != nil {
		r.Body, err = json.Marshal(body)
	}
	if err != nil {
		r.Error = AsError(err)
	}
	c.stopBusy()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(r) == nil && err == nil
}

func (c *conversation) write(r reply) error {
	frame, err := frameOf(r)
	if err != nil {
		return err
	}
	return writeLate(c.conn, frame, c.frame)
}

// startBusy sends a sign of life at intervals until stopBusy. Fast answers never
// meet the timer.
func (c *conversation) startBusy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var t *time.Timer
	t = time.AfterFunc(c.busy, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.alive != t {
			return
		}
		r := reply{Busy: true}
		if awaits, ok := c.waits.Current(); ok {
			r.Awaits = &awaits
		}
		// Also after a failure: an agent without a processor may miss its own deadline,
		// and a client that is gone hears nothing anyway.
		_ = c.write(r)
		t.Reset(c.busy)
	})
	c.alive = t
}

func (c *conversation) stopBusy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alive != nil {
		c.alive.Stop()
		c.alive = nil
	}
}

// isGone tells a client that left, or never spoke, from one that spoke wrongly.
func isGone(err error) bool {
	var netErr net.Error
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax), errors.As(err, &typ), errors.Is(err, errFrameTooLong):
		return false
	case errors.As(err, &netErr) && netErr.Timeout():
		return false
	}
	return true
}
