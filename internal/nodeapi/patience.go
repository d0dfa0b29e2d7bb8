package nodeapi

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/localsock"
	"github.com/manx-cni/manx/internal/progress"
)

// Silence is how long a client waits for any sign of life of an agent that sleeps, a
// busy frame included, before it takes it for hung. An agent that wants the processor,
// or gets it, is not silent but slow: sixty pods that start at once on two cores have
// kept one from its socket for more than this. An agent that is down or killed is
// noticed at once, by its socket, and one that is stopped after [Patience].
const Silence = 5 * time.Second

// Patience is after how much silence a client looks at the agent's process, and
// gives up when that is stopped (a signal, a debugger): it will not answer.
const Patience = 1500 * time.Millisecond

// patientReader reads what the agent sends, and decides while nothing comes whether
// that is still to be expected.
//
// A deadline that has passed says only that the client looks late: the client may have
// been without a processor itself, and Go fails a read whose deadline has passed though
// the answer lies in the socket. So what has arrived is looked for once more before
// anything is concluded, and a pause of the client's counts for no more than the look
// that it cut short.
type patientReader struct {
	conn              *net.UnixConn
	silence, patience time.Duration
	until             time.Time // when the caller's own time is over; zero: never

	agent localsock.Activity // as of the last look
}

// errTimeOver is that the caller's own time ended before anything came.
var errTimeOver = errors.New("the time for it is over")

// timeOver says what is known of the agent when the caller's time is over.
func (r *patientReader) timeOver() error {
	if r.agent.WantsProcessor {
		return starvedError{r.agent.PID}
	}
	return errTimeOver
}

// starvedError is errTimeOver of an agent that has been seen to want a processor.
type starvedError struct{ pid int32 }

func (e starvedError) Error() string {
	return fmt.Sprintf("process %d runs and gets no processor to answer with", e.pid)
}

func (e starvedError) Is(target error) bool { return target == errTimeOver }

// Read waits for something to have arrived.
func (r *patientReader) Read(p []byte) (int, error) {
	quiet := time.Duration(0) // that is the agent's
	for {
		look := min(r.patience, r.silence-quiet)
		last := false
		if left := time.Until(r.until); !r.until.IsZero() && left < look {
			look, last = max(left, 0), true
		}
		if err := r.conn.SetReadDeadline(time.Now().Add(look)); err != nil {
			return 0, err
		}
		n, err := r.conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if hasArrived(r.conn) {
			if err := r.conn.SetReadDeadline(time.Time{}); err != nil {
				return 0, err
			}
			return r.conn.Read(p)
		}
		if last {
			return 0, r.timeOver()
		}
		before := r.agent
		r.agent = localsock.ListenerActivity(r.conn)
		switch {
		case r.agent.Stopped:
			return 0, fmt.Errorf("process %d is stopped", r.agent.PID)
		case r.agent.WantsProcessor || r.agent.Worked(before):
			continue // it is kept from answering
		}
		if quiet += look; quiet >= r.silence {
			return 0, fmt.Errorf("process %d sleeps and has said nothing for %s", r.agent.PID, progress.Seconds(quiet))
		}
	}
}

// lateReader is the server's: what has arrived before the deadline passes is read, also
// by an agent that was without a processor at that moment. No more than that is: the
// deadline stays passed.
type lateReader struct{ conn *net.UnixConn }

func (r lateReader) Read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !hasArrived(r.conn) {
		return n, err
	}
	if err := r.conn.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	n, err = r.conn.Read(p)
	return n, errors.Join(err, r.conn.SetReadDeadline(time.Unix(1, 0)))
}

// writeLate writes a frame, with a second try when the deadline had passed before the
// first began. One that was begun is not repeated.
func writeLate(conn *net.UnixConn, frame []byte, within time.Duration) error {
	var n int
	var err error
	for range 2 {
		if err := conn.SetWriteDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		if n, err = conn.Write(frame); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return err
}

// hasArrived reports whether a read would return at once, with data or because the
// other end is gone.
func hasArrived(conn *net.UnixConn) (yes bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		for {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			yes = err == nil && n > 0
			return
		}
	})
	return yes && err == nil
}
