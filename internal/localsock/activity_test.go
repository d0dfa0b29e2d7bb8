package localsock

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/testwait"
)

func activityOf(t *testing.T, p *os.Process) (state byte, ticks uint64) {
	t.Helper()
	return readStat(fmt.Sprintf("/proc/%d/stat", p.Pid))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testwait.Until(t, 30*time.Second, what, ok)
}

func TestReadStat(t *testing.T) {
	for script, want := range map[string]byte{"while :; do :; done": 'R', "read x": 'S'} {
		cmd := exec.Command("sh", "-c", script)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		eventually(t, script+" is in state "+string(want), func() bool { state, _ := activityOf(t, cmd.Process); return state == want })
		if want == 'R' {
			eventually(t, script+" uses the processor", func() bool { _, ticks := activityOf(t, cmd.Process); return ticks > workedTicks })
		}
		if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, script+" is stopped", func() bool { state, _ := activityOf(t, cmd.Process); return state == 'T' })
	}
	if state, ticks := readStat("/proc/0/stat"); state != 0 || ticks != 0 {
		t.Errorf("a process that is not there: %q, %d", state, ticks)
	}
}

// This process listens, and works.
func TestListenerActivity(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := ListenerActivity(conn)
	if int(before.PID) != os.Getpid() || before.Stopped || !before.WantsProcessor {
		t.Errorf("%+v; want a running process %d", before, os.Getpid())
	}
	if before.Worked(Activity{}) || before.Worked(before) {
		t.Errorf("%+v has worked since it was looked at", before)
	}
	now := before
	for deadline := time.Now().Add(30 * time.Second); !now.Worked(before) && time.Now().Before(deadline); {
		before.ticks = max(before.ticks, 1) // a process that has just started has none
		now = ListenerActivity(conn)
	}
	if !now.Worked(before) {
		t.Errorf("it has not worked: %+v, then %+v", before, now)
	}
}
