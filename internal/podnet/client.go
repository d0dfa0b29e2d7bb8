package podnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// SetMTU makes the MTU of every pod on this node mtu bytes, [MinMTU] to [MaxMTU],
// by asking the process that serves the socket. The error says that the request
// could not be made or was not carried out at all; what failed in single
// namespaces is in the report. It takes milliseconds a pod and waits for requests
// before it; ctx ends the wait, not the work.
func SetMTU(ctx context.Context, socket string, mtu int) (Report, error) {
	req := request{MTU: mtu}
	if err := req.validate(); err != nil {
		return Report{}, err
	}
	var r reply
	switch err := call(ctx, socket, req, &r); {
	case errors.As(err, new(lateError)):
		return Report{}, fmt.Errorf("set the MTU of running pods to %d: %w on %s: it serves one request after the other "+
			"and enters every pod of the node; see the log of the pod-network container of this node's manx-node pod", mtu, err, socket)
	case err != nil:
		return Report{}, fmt.Errorf("set the MTU of running pods to %d: nobody answers on %s (%w): "+
			"check that the pod-network container of this node's manx-node pod is running", mtu, socket, err)
	}
	if r.Error != "" {
		return r.Report, errors.New(r.Error)
	}
	return r.Report, nil
}

func call(ctx context.Context, socket string, req request, r *reply) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // "connect: no such file or directory", without the path again
		}
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	err = json.NewEncoder(conn).Encode(req)
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxReply)).Decode(r)
	}
	if err != nil && ctx.Err() != nil {
		return lateError{ctx.Err()}
	}
	return err
}

// lateError is that the request was made and ctx ended before the answer.
type lateError struct{ cause error }

func (e lateError) Error() string { return "the pod-network process has not answered in time" }
func (e lateError) Unwrap() error { return e.cause }
