package ctl

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/internal/testwait"
)

// shared is a buffer that is written to and read at the same time.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out shared
		ctx, stop := watch(t.Context(), &out)
		time.Sleep(patience - time.Millisecond) //nolint:forbidigo // the bubble's clock
		if out.String() != "" {
			t.Errorf("it says %q at once", out.String())
		}
		agents := awaitedOf("agents have not answered", []string{"node1", "node2", "node3"})
		end := progress.Wait(ctx, agents, "")
		time.Sleep(time.Second) //nolint:forbidigo // the bubble's clock, 3 s: told
		agents.heard("node2")
		time.Sleep(2 * time.Second)  //nolint:forbidigo // the bubble's clock, 5 s: told what has changed
		time.Sleep(20 * time.Second) //nolint:forbidigo // the bubble's clock, 25 s: told again, once
		end()
		time.Sleep(2 * time.Second) //nolint:forbidigo // the bubble's clock
		stop()
		stop()
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		want := "[  2.0 s] 3 of 3 agents have not answered: node1, node2, node3\n[  4.0 s] 2 of 3 agents have not answered: node1, node3\n" +
			"[ 20.0 s] 2 of 3 agents have not answered: node1, node3\n[ 26.0 s] still at work\n"
		if out.String() != want {
			t.Errorf("it says\n%s\nwant\n%s", out.String(), want)
		}
	})
	synctest.Test(t, func(t *testing.T) { // what does not last is not told
		var out shared
		_, stop := watch(t.Context(), &out)
		time.Sleep(patience - time.Millisecond) //nolint:forbidigo // the bubble's clock
		stop()
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		if out.String() != "" {
			t.Errorf("it says %q", out.String())
		}
	})
}

func TestAwaitedNamesFew(t *testing.T) {
	a := awaitedOf("agents have not answered", strings.Split("abcdefg", ""))
	if got, want := a.String(), "7 of 7 agents have not answered: a, b, c, d, e, 2 more"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}

// TestEveryCommandHasProgress: with an API server that does not answer each command says
// so before it is given up, and on standard error only.
func TestEveryCommandHasProgress(t *testing.T) {
	var all sync.WaitGroup
	for _, command := range []string{
		"status --socket /none", "status --socket /none --wait --timeout 1h", "preflight ipip",
		"preflight bgp", "ippool mode pool Always", "ipam show", "ipam show --ip 10.244.0.1",
		"ipam check", "ipam release --ip 10.244.0.1", "ipam configure --strictaffinity true", "uninstall", "uninstall --yes",
	} {
		var out, errOut shared
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			testwait.Poll(30*time.Second, func() bool {
				return strings.Contains(errOut.String(), "the API server has not answered")
			})
			forbid(w, nil) // which ends it
		}))
		t.Cleanup(server.Close)
		kubeconfig := writeKubeconfig(t, "a", map[string]string{"a": server.URL})
		all.Go(func() {
			cmd := NewCommand(&out, &errOut)
			cmd.SetArgs(append(strings.Fields(command), "--kubeconfig", kubeconfig))
			if err := cmd.ExecuteContext(t.Context()); err == nil {
				t.Errorf("%s succeeds", command)
			}
			if text := errOut.String(); !strings.HasPrefix(text, "[ ") || !strings.Contains(text, "the API server has not answered ") {
				t.Errorf("%s says %q", command, text)
			}
			if strings.Contains(out.String(), "has not answered") {
				t.Errorf("%s prints %q", command, out.String())
			}
		})
	}
	all.Wait() // two seconds, for all of them
}
