package localsock

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
)

// Activity is what the process at the other end of a connection does, the one that
// called listen(2), as /proc (proc(5)) shows it. All is false of a process that cannot
// be looked at, because it has ended or is in a process namespace that this one does
// not see.
type Activity struct {
	PID int32
	// Stopped: by a signal or by a debugger, states T and t.
	Stopped bool
	// WantsProcessor: a thread of it could run (R), which says nothing about whether it
	// is let, or waits for the kernel to get a page or a file from the disk (D).
	WantsProcessor bool

	ticks uint64 // of processor time used, USER_HZ a second; the kernel has it at 100
}

// workedTicks is how much processor time is more than a timer's.
const workedTicks = 2

// Worked reports whether the process has used the processor since before.
func (a Activity) Worked(before Activity) bool {
	return a.PID == before.PID && before.ticks > 0 && a.ticks >= before.ticks+workedTicks
}

// ListenerActivity looks at the process at the other end of conn.
func ListenerActivity(conn *net.UnixConn) (a Activity) {
	cred, err := peer(conn)
	if err != nil || cred.Pid <= 0 {
		return a
	}
	a.PID = cred.Pid
	dir := fmt.Sprintf("/proc/%d/", cred.Pid)
	state, ticks := readStat(dir + "stat")
	a.ticks = ticks
	a.Stopped = state == 'T' || state == 't'
	threads, _ := os.ReadDir(dir + "task")
	for _, t := range threads {
		if state, _ := readStat(dir + "task/" + t.Name() + "/stat"); state == 'R' || state == 'D' {
			a.WantsProcessor = true
		}
	}
	return a
}

// readStat reads the state and the processor time of a process or a thread; zero when
// it is gone.
func readStat(path string) (state byte, ticks uint64) {
	stat, err := os.ReadFile(path)
	if err != nil {
		return 0, 0
	}
	// PID (NAME) STATE ...; the name may have parentheses and spaces itself.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const utime, stime = 11, 12 // counted from STATE
	if len(fields) <= stime {
		return 0, 0
	}
	user, _ := strconv.ParseUint(string(fields[utime]), 10, 64)
	system, _ := strconv.ParseUint(string(fields[stime]), 10, 64)
	return fields[0][0], user + system
}
