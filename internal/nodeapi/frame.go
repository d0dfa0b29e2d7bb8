package nodeapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/manx-cni/manx/internal/progress"
)

// A frame is one JSON value and a newline. JSON escapes newlines inside strings,
// so the newline always ends the frame.
const (
	maxRequest = 64 << 10 // bytes; an ADD is below 1 KiB
	maxReply   = 8 << 20  // bytes; the status of a node with many sessions and blocks
)

type operation string

const (
	opAdd    operation = "add"
	opReady  operation = "ready"
	opAbort  operation = "abort"
	opDel    operation = "del"
	opCheck  operation = "check"
	opStatus operation = "status"
	opBGP    operation = "bgp"
	opPing   operation = "ping" // answered by the server itself
)

// request is a frame from client to server.
type request struct {
	Op   operation       `json:"op"`
	Body json.RawMessage `json:"body,omitempty"`
}

// reply is a frame from server to client. Busy means: alive, answer follows; Awaits
// says what keeps it. An agent of another version may not say that, and a plugin of
// another version not look.
type reply struct {
	Busy   bool              `json:"busy,omitempty"`
	Awaits *progress.Awaited `json:"awaits,omitempty"`
	Body   json.RawMessage   `json:"body,omitempty"`
	Error  *Error            `json:"error,omitempty"`
}

var errFrameTooLong = errors.New("frame too long")

// readFrame reads one frame of at most limit bytes into v. It never holds more
// than limit bytes, whatever the peer sends.
func readFrame(r *bufio.Reader, limit int, v any) error {
	var frame []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(frame)+len(part) > limit {
			return fmt.Errorf("%w: more than %d bytes", errFrameTooLong, limit)
		}
		if err == nil && frame == nil {
			frame = part // whole frame in the buffer: decode in place
			break
		}
		frame = append(frame, part...)
		if err == nil {
			break
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) && len(frame) > 0 {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(frame, v); err != nil {
		return fmt.Errorf("decode frame: %w", err)
	}
	return nil
}

// frameOf is v as one frame.
func frameOf(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	return append(b, '\n'), nil
}
