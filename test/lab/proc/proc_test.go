package proc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/manx-cni/manx/internal/testwait"
)

func TestParseStat(t *testing.T) {
	line := "4711 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21"
	state, start, err := parseStat([]byte(line))
	if err != nil || state != 'S' || start != 987654 {
		t.Errorf("got %c, %d, %v; want S, 987654", state, start, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2", "1 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 soon 20"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestIdentity(t *testing.T) {
	self, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.Alive() {
		t.Error("this process is said to have ended")
	}
	other := ID{PID: self.PID, Start: self.Start + 1}
	if other.Alive() {
		t.Error("a process with another start time is taken for this one")
	}
	if err := other.Signal(9); err != nil {
		t.Errorf("signal to a process that is gone: %v", err)
	}
	if (ID{}).Alive() {
		t.Error("the zero ID is alive")
	}
}

func TestCommand(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitCommand(t, cmd.Process.Pid, "sleep 1000")
	_ = cmd.Process.Kill()
	awaitCommand(t, cmd.Process.Pid, "[sleep]") // A zombie has no arguments.
	_ = cmd.Wait()
	if got := (ID{PID: cmd.Process.Pid}).Command(); got != "?" {
		t.Errorf("a process that is gone is called %q", got)
	}
}

func awaitCommand(t *testing.T, pid int, want string) {
	t.Helper()
	id := ID{PID: pid}
	testwait.Succeeds(t, 10*time.Second, "what a process is called", func() error {
		if got := id.Command(); got != want {
			return fmt.Errorf("process %d is called %q, want %q", pid, got, want)
		}
		return nil
	})
}

func TestKillWaitsForTheEnd(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := id.Kill(ctx); err != nil {
		t.Error(err)
	}
	if id.Alive() {
		t.Error("alive after Kill")
	}
	_ = cmd.Wait()
	if err := id.Kill(ctx); err != nil {
		t.Errorf("second Kill: %v", err)
	}
}
