package nodeapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/manx-cni/manx/internal/localsock"
)

// Silence is how long a client waits for any sign of life, a busy frame included,
// before it takes a running agent for hung. It is longer than an agent on a crowded
// node may have to wait for the processor: sixty pods that start at once on two cores
// have kept one from it for 1.5 s. An agent that is down or killed is noticed at
// once, by its socket, and one that is stopped after [Patience].
const Silence = 5 * time.Second

// Patience is after how much silence a client looks at the agent's process, and
// gives up when that is stopped (a signal, a debugger): it will not answer.
const Patience = 1500 * time.Millisecond

// Client is one conversation with the agent. It is used by one goroutine. A
// context's deadline is honoured by every call; its cancellation is not watched.
type Client struct {
	path string
	conn *net.UnixConn
	r    *bufio.Reader
	// Silence and Patience; tests shorten them.
	silence, patience time.Duration
}

// Dial connects to the agent's socket. It fails at once, with an
// [*UnreachableError], when nobody listens there.
func Dial(ctx context.Context, path string) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // "connect: no such file or directory", without the path again
		}
		return nil, &UnreachableError{Path: path, Doing: "connect to the socket", Err: err}
	}
	return &Client{path: path, conn: conn, r: bufio.NewReader(conn), silence: Silence, patience: Patience}, nil
}

// Close ends the conversation; an ADD that is not ready is undone by the agent.
func (c *Client) Close() error { return c.conn.Close() }

// SendAdd asks for an address and does not wait: the caller creates the
// interface meanwhile, then calls [Client.RecvAdd].
func (c *Client) SendAdd(ctx context.Context, req AddRequest) error {
	return c.send(ctx, opAdd, req)
}

// RecvAdd waits for the answer to [Client.SendAdd].
func (c *Client) RecvAdd(ctx context.Context) (AddReply, error) {
	var r AddReply
	err := c.recv(ctx, opAdd, &r)
	return r, err
}

// Add is SendAdd and RecvAdd.
func (c *Client) Add(ctx context.Context, req AddRequest) (AddReply, error) {
	if err := c.SendAdd(ctx, req); err != nil {
		return AddReply{}, err
	}
	return c.RecvAdd(ctx)
}

// Ready reports the configured interface and returns once its traffic can flow.
func (c *Client) Ready(ctx context.Context, req ReadyRequest) error {
	return c.call(ctx, opReady, req, nil)
}

// Abort gives the addresses of an unfinished ADD back and waits until they are.
// The caller has removed the interface first: an address must not be free while
// an interface still has it.
func (c *Client) Abort(ctx context.Context) error { return c.call(ctx, opAbort, nil, nil) }

// Del asks the agent to release and remove everything of the endpoint.
func (c *Client) Del(ctx context.Context, req DelRequest) error {
	return c.call(ctx, opDel, req, nil)
}

// Check asks whether the agent agrees.
func (c *Client) Check(ctx context.Context, req CheckRequest) error {
	return c.call(ctx, opCheck, req, nil)
}

// Ping asks whether the agent serves.
func (c *Client) Ping(ctx context.Context) error { return c.call(ctx, opPing, nil, nil) }

// Status returns the agent's status as it encoded it.
func (c *Client) Status(ctx context.Context) (json.RawMessage, error) {
	var raw json.RawMessage
	err := c.call(ctx, opStatus, nil, &raw)
	return raw, err
}

func (c *Client) call(ctx context.Context, op operation, body, into any) error {
	if err := c.send(ctx, op, body); err != nil {
		return err
	}
	return c.recv(ctx, op, into)
}

func (c *Client) send(ctx context.Context, op operation, body any) error {
	req := request{Op: op}
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s request: %w", op, err)
		}
		req.Body = raw
	}
	if err := c.conn.SetWriteDeadline(c.deadline(ctx)); err != nil {
		return c.unreachable("send "+string(op), err)
	}
	if err := writeFrame(c.conn, req); err != nil {
		return c.unreachable("send "+string(op), err)
	}
	return nil
}

func (c *Client) recv(ctx context.Context, op operation, into any) error {
	doing := "wait for the answer to " + string(op)
	for {
		if err := c.await(c.deadline(ctx)); err != nil {
			return c.unreachable(doing, err)
		}
		var r reply
		if err := readFrame(c.r, maxReply, &r); err != nil {
			return c.unreachable(doing, err)
		}
		switch {
		case r.Busy:
			if err := ctx.Err(); err != nil {
				return c.unreachable(doing, err)
			}
		case r.Error != nil:
			return r.Error
		case into == nil:
			return nil
		default:
			if err := json.Unmarshal(r.Body, into); err != nil {
				return c.unreachable(doing, fmt.Errorf("decode the body: %w", err))
			}
			return nil
		}
	}
}

// await returns when the next frame has begun, which then has until the deadline.
func (c *Client) await(deadline time.Time) error {
	for {
		look := time.Now().Add(c.patience)
		if deadline.Before(look) {
			look = deadline
		}
		if err := c.conn.SetReadDeadline(look); err != nil {
			return err
		}
		_, err := c.r.Peek(1)
		if err == nil {
			return c.conn.SetReadDeadline(deadline)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || look.Equal(deadline) {
			return err
		}
		if pid, stopped := localsock.ListenerStopped(c.conn); stopped {
			return fmt.Errorf("process %d is stopped", pid)
		}
	}
}

func (c *Client) unreachable(doing string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return &UnreachableError{Path: c.path, Doing: doing, Err: err}
}

func (c *Client) deadline(ctx context.Context) time.Time {
	t := time.Now().Add(c.silence)
	if d, ok := ctx.Deadline(); ok && d.Before(t) {
		return d
	}
	return t
}
