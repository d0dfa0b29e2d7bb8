package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/progress"
)

// Codes of the CNI specification (section "Error"), as the runtime gets them.
const (
	CodeUnknownContainer = 3
	CodeInvalidEnv       = 4
	CodeIO               = 5
	CodeDecoding         = 6
	CodeInvalidConfig    = 7
	CodeTryAgain         = 11 // transient: the runtime should try again later
	CodeNotAvailable     = 50 // STATUS: the plugin cannot serve ADD
	CodeInternal         = 999
)

// Error is an error that crosses the socket with its CNI code.
type Error struct {
	Code    int    `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// Error returns the message and, after a colon, the details.
func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// Errorf makes an error with a CNI code.
func Errorf(code int, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// UnreachableError says that no living agent was met on the socket: nothing
// listens, or it stopped answering. The request may or may not have had effect.
type UnreachableError struct {
	Path  string
	Doing string // what was tried: connect, wait for the answer to add
	Err   error
}

func (e *UnreachableError) Error() string {
	remedy := "check that the manx-node pod of this node is running"
	if errors.As(e.Err, new(starvedError)) {
		remedy = "this node has too little processor time or memory for what runs on it"
	}
	return fmt.Sprintf("the Manx agent of this node does not answer on %s (%s: %v): %s", e.Path, e.Doing, e.Err, remedy)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// SlowError says that the caller's time was over while the agent, which lives, worked
// on the request. The request may or may not have had effect.
type SlowError struct {
	Op     string
	After  time.Duration
	Awaits *progress.Awaited // what the agent waited for; nil when it did not say
}

func (e *SlowError) Error() string {
	text := fmt.Sprintf("the Manx agent of this node is not done with %s after %s", e.Op, progress.Seconds(e.After))
	if e.Awaits == nil {
		return text + ": see the log of the manx-node pod of this node"
	}
	return text + ": " + e.Awaits.String()
}

// AsError gives any error its CNI code, and bounds its text: it may quote an annotation
// of 256 KiB, and becomes an Event of the pod and a line in the logs of three programs.
func AsError(err error) *Error {
	e := withCode(err)
	if len(e.Msg) <= excerpt.LogMax && len(e.Details) <= excerpt.LogMax {
		return e
	}
	return &Error{Code: e.Code, Msg: excerpt.Of(e.Msg, excerpt.LogMax), Details: excerpt.Of(e.Details, excerpt.LogMax)}
}

func withCode(err error) *Error {
	var coded *Error
	if errors.As(err, &coded) {
		if err == error(coded) {
			return coded
		}
		return &Error{Code: coded.Code, Msg: err.Error()}
	}
	var down *UnreachableError
	var slow *SlowError
	if errors.As(err, &down) || errors.As(err, &slow) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &Error{Code: CodeTryAgain, Msg: err.Error()}
	}
	return &Error{Code: CodeInternal, Msg: err.Error()}
}
