// Package proc identifies processes so that a recycled pid is never mistaken for
// the process it once named, and ends them for certain.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ID is a process: its pid and its start time in clock ticks after boot
// (field 22 of /proc/PID/stat, proc(5)).
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// Identify returns the identity of the process that has pid now.
func Identify(pid int) (ID, error) {
	_, start, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: start}, nil
}

// Alive reports whether the process still runs. A zombie does not.
func (id ID) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	state, start, err := readStat(id.PID)
	return err == nil && start == id.Start && state != 'Z' && state != 'X'
}

// Reaped reports whether nothing is left of the process, not even a zombie that
// waits for its parent.
func (id ID) Reaped() bool {
	_, start, err := readStat(id.PID)
	return err != nil || start != id.Start
}

// Signal sends sig to the process; that it is gone already is no error.
func (id ID) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", id.PID, err)
	}
	defer unix.Close(fd)
	if !id.Alive() { // The descriptor pins the pid, so what is checked now is what is signalled.
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), id.PID, err)
	}
	return nil
}

// Kill sends SIGKILL and returns when the process is gone, or with ctx's error.
func (id ID) Kill(ctx context.Context) error {
	if err := id.Signal(unix.SIGKILL); err != nil {
		return err
	}
	for id.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d (%s) does not end after SIGKILL: %w", id.PID, id.Command(), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// Command is the process's command line, for messages. A process without arguments is
// named as ps(1) names it, "[kthreadd]"; one that is gone is "?".
func (id ID) Command() string {
	if args := Args(id.PID); len(args) > 0 {
		return strings.Join(args, " ")
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id.PID))
	if err != nil {
		return "?"
	}
	return "[" + strings.TrimSpace(string(b)) + "]"
}

// Args returns a process's arguments. They are nil when the process is gone, when it has
// none (kernel threads, zombies) and for the moment within execve(2) in which it has left
// its old memory and the arguments are not yet written to the new.
func Args(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

// All lists the pids of every process, threads not included.
func All() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// readStat returns the state letter and start time of a process.
// The command name may hold spaces and parentheses, so fields are counted after the last ')'.
func readStat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read process %d: %w", pid, err)
	}
	return parseStat(b)
}

func parseStat(b []byte) (state byte, start uint64, err error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("malformed stat line %q", b)
	}
	f := strings.Fields(string(b[end+1:])) // f[0] is field 3, the state; field 22 is f[19].
	if len(f) < 20 {
		return 0, 0, fmt.Errorf("malformed stat line %q", b)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("malformed start time in %q: %w", b, err)
	}
	return f[0][0], start, nil
}
