package nodeapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/manx-cni/manx/internal/progress"
)

// Client is one conversation with the agent. It is used by one goroutine. A
// context's deadline is honoured by every call; its cancellation is not watched. The
// error of a call is an [*Error] of the agent, an [*UnreachableError], or a
// [*SlowError] when the deadline was over and the agent still worked.
type Client struct {
	path  string
	conn  *net.UnixConn
	agent *patientReader
	r     *bufio.Reader // over agent
}

func newClient(path string, conn *net.UnixConn) *Client {
	agent := &patientReader{conn: conn, silence: Silence, patience: Patience}
	return &Client{path: path, conn: conn, agent: agent, r: bufio.NewReader(agent)}
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
	return newClient(path, conn), nil
}

// Close ends the conversation; an ADD that is not ready is undone by the agent.
func (c *Client) Close() error { return c.conn.Close() }

// SendAdd asks for an address and does not wait: the caller creates the
// interface meanwhile, then calls [Client.RecvAdd].
func (c *Client) SendAdd(_ context.Context, req AddRequest) error {
	return c.send(opAdd, req)
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

// BGP returns what the agent says of BGP, as it encoded it. An agent that is older than the
// request does not know it, and says so.
func (c *Client) BGP(ctx context.Context, req BGPRequest) (json.RawMessage, error) {
	var raw json.RawMessage
	err := c.call(ctx, opBGP, req, &raw)
	return raw, err
}

func (c *Client) call(ctx context.Context, op operation, body, into any) error {
	if err := c.send(op, body); err != nil {
		return err
	}
	return c.recv(ctx, op, into)
}

func (c *Client) send(op operation, body any) error {
	req := request{Op: op}
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s request: %w", op, err)
		}
		req.Body = raw
	}
	frame, err := frameOf(req)
	if err != nil {
		return fmt.Errorf("%s request: %w", op, err)
	}
	// A request fits into the socket, whether the agent reads or not: the write waits
	// for nothing, and needs no deadline that a client without a processor could miss.
	if _, err := c.conn.Write(frame); err != nil {
		return c.unreachable("send "+string(op), err)
	}
	return nil
}

func (c *Client) recv(ctx context.Context, op operation, into any) error {
	doing := "wait for the answer to " + string(op)
	begin := time.Now()
	c.agent.until, _ = ctx.Deadline()
	var last *progress.Awaited // what the agent said that it waits for
	heard := false
	for {
		var r reply
		switch err := readFrame(c.r, maxReply, &r); {
		case errors.Is(err, errTimeOver) && heard:
			return &SlowError{Op: string(op), After: time.Since(begin), Awaits: last}
		case errors.Is(err, errTimeOver):
			return c.unreachable(doing, fmt.Errorf("no word in %s: %w", progress.Seconds(time.Since(begin)), err))
		case err != nil:
			return c.unreachable(doing, err)
		case r.Busy:
			heard, last = true, r.Awaits
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

func (c *Client) unreachable(doing string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return &UnreachableError{Path: c.path, Doing: doing, Err: err}
}
