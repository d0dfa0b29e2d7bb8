package vm

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// A frame is a kind, the length of the payload as four bytes in network order, and
// the payload. The guest sends frames, the host none. All output comes before the
// frame that ends the run, so what the host has when it reads that is complete.
const (
	frameUp      = 'u' // PID 1 runs and starts the command
	frameStdout  = 'o'
	frameStderr  = 'e'
	frameExit    = 'x' // last: the exit code in decimal
	frameTimeout = 't' // last: the command was ended because its time was over
	frameFailure = 'f' // last: why there was no command
)

// maxPayload bounds what a reader allocates.
const maxPayload = 64 << 10

const frameHeader = 5

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxPayload {
		return 0, nil, fmt.Errorf("frame of %d bytes; the largest has %d", n, maxPayload)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return head[0], payload, nil
}

// framer writes frames of several goroutines to one writer.
type framer struct {
	mu sync.Mutex
	w  io.Writer
}

// send writes one frame; payload has at most maxPayload bytes.
func (f *framer) send(kind byte, payload []byte) error {
	frame := make([]byte, frameHeader, frameHeader+len(payload))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	frame = append(frame, payload...)
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(frame)
	return err
}

// copyFrom sends what r has until its end.
func (f *framer) copyFrom(r io.Reader, kind byte) error {
	buf := make([]byte, maxPayload/2)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := f.send(kind, buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return nil //nolint:nilerr // A pipe has no other end than EOF.
		}
	}
}

func exitCode(payload []byte) (int, error) {
	code, err := strconv.Atoi(string(payload))
	if err != nil {
		return 0, fmt.Errorf("the guest sent a malformed exit code: %w", err)
	}
	return code, nil
}
