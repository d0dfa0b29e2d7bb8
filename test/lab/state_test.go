package lab

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/proc"
)

func testLayout(t *testing.T) layout.Lab {
	t.Helper()
	t.Setenv(layout.RootEnv, t.TempDir())
	l, err := layout.New("unit")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStateRoundTrip(t *testing.T) {
	l := testLayout(t)
	if _, err := loadState(l); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "lab up --name unit") {
		t.Errorf("a lab that is not there: %v", err)
	}
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	want := &state{
		Kubernetes: "v1", Created: time.Unix(1000, 0).UTC(), Complete: true, NextAddr: 12, Subnets: 2,
		Machines: []Machine{{Name: "node1", Addr: netip.MustParseAddr("172.30.0.11"), Init: proc.ID{PID: 7, Start: 8}}},
	}
	if err := want.save(l); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(l)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if got.machine("node1") == nil || got.machine("node2") != nil {
		t.Error("machine finds the wrong ones")
	}
}

func TestLock(t *testing.T) {
	l := testLayout(t)
	quiet := func(string) {}
	if _, err := lock(t.Context(), l, false, quiet); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lock of a lab that is not there: %v", err)
	}
	unlock, err := lock(t.Context(), l, true, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, l, true, quiet); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v", err)
	}
	// Whoever waits while the lab is removed must lock the new directory, not the dead one.
	locked := make(chan error, 1)
	waiting := make(chan struct{})
	go func() {
		u, err := lock(t.Context(), l, true, func(string) { close(waiting) })
		if err == nil {
			defer u()
			_, err = os.Stat(l.Dir())
		}
		locked <- err
	}()
	<-waiting
	if err := os.Remove(l.Dir()); err != nil {
		t.Fatal(err)
	}
	unlock()
	if err := <-locked; err != nil {
		t.Error(err)
	}
}
