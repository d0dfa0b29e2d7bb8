package nodeapi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDeferredDelIsReplayed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deferred-del")
	for _, id := range []string{"a", "b", "a"} {
		if err := Defer(dir, DelRequest{endpoint(id)}); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"junk.json": "{", "other.json": `{"containerID":"b"}`, ".c.tmp": "{"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := &recorder{del: func(_ context.Context, req DelRequest) error {
		if req.ContainerID == "b" {
			return errors.New("API server is away")
		}
		return nil
	}}
	err := ReplayDeferred(t.Context(), dir, h)
	for _, want := range []string{"junk.json", "other.json", "deferred DEL of b: API server is away"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not tell %q", err, want)
		}
	}
	h.del = nil
	if err := ReplayDeferred(t.Context(), dir, h); err != nil {
		t.Errorf("second replay: %v", err)
	}
	wantCalls(t, h, "del a", "del b", "del b")
	if err := ReplayDeferred(t.Context(), filepath.Join(dir, "absent"), h); err != nil {
		t.Errorf("no directory: %v", err)
	}
	if err := Defer(dir, DelRequest{Endpoint{ContainerID: "../x", Network: "n", IfName: "eth0"}}); err == nil {
		t.Error("a container ID with a slash became a file name")
	}
}

// A DEL recorded between the death of one agent and the start of the next is
// done by the next, repeatedly until it succeeds.
func TestServerReplays(t *testing.T) {
	tries := 0
	h := &recorder{del: func(context.Context, DelRequest) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	}}
	path, stop := start(t, &recorder{}, nil)
	stop()
	if err := Defer(DeferredDir(path), DelRequest{endpoint("a")}); err != nil {
		t.Fatal(err)
	}
	startAt(t, path, h, func(l *limits) { l.retries = 5 * time.Millisecond })
	eventually(t, "the record is gone", func() bool {
		_, err := os.Stat(deferredFile(DeferredDir(path), "a"))
		return errors.Is(err, os.ErrNotExist)
	})
	wantCalls(t, h, "del a", "del a", "del a")
}

// A container that comes back must not be hit by the DEL of its earlier life.
func TestAddComesAfterDeferredDel(t *testing.T) {
	h := &recorder{}
	path, _ := start(t, h, nil)
	eventually(t, "the first replay is over", func() bool { return dial(t, path).Ping(t.Context()) == nil })
	if err := Defer(DeferredDir(path), DelRequest{endpoint("a")}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, path)
	if _, err := c.Add(t.Context(), AddRequest{Endpoint: endpoint("a")}); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context(), ReadyRequest{Endpoint: endpoint("a")}); err != nil {
		t.Fatal(err)
	}
	if err := ReplayDeferred(t.Context(), DeferredDir(path), h); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, h, "del a", "add a", "ready a")
}

func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"containerID":"a","network":"n","ifName":"eth0"}`))
	f.Fuzz(func(t *testing.T, record []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(deferredFile(dir, "a"), record, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = replay(t.Context(), dir, func(_ context.Context, req DelRequest) error {
			if req.ContainerID != "a" || req.Validate() != nil {
				t.Errorf("a record of %q was replayed as %q", "a", req.ContainerID)
			}
			return nil
		})
		if _, err := os.Stat(deferredFile(dir, "a")); err == nil {
			t.Error("the record is still in the way")
		}
	})
}
