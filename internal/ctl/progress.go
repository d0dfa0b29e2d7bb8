package ctl

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/progress"
)

const (
	// patience is how long a command works before it tells what it waits for.
	patience = 2 * time.Second
	// tellAgain is how soon it tells the same thing again.
	tellAgain = 15 * time.Second
)

// withProgress has every command below root that asks the cluster tell what it waits
// for. There is nothing to do in a command: each request is noticed on its way to the
// API server, and what takes several is noted with progress.Wait where it is made.
func withProgress(root *cobra.Command) {
	cmdline.Walk(root, func(c *cobra.Command) {
		if run := c.RunE; c.Annotations[asksCluster] != "" {
			c.RunE = func(cmd *cobra.Command, args []string) error {
				ctx, stop := watch(cmd.Context(), cmd.ErrOrStderr())
				defer stop()
				cmd.SetContext(ctx)
				return run(cmd, args)
			}
		}
	})
}

// watch tells on w, a line at a time, what the work of the returned context waits for,
// from patience on until stop is called. A line comes when there is news, at most every
// patience, and at least every tellAgain; it is plain text, on a terminal or not.
func watch(ctx context.Context, w io.Writer) (watched context.Context, stop func()) {
	work := &work{start: time.Now(), requests: map[*request]struct{}{}}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		told, at := "", time.Time{}
		tick := time.NewTicker(patience)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case now := <-tick.C:
				if text := work.text(now); text != told || now.Sub(at) >= tellAgain {
					fmt.Fprintf(w, "[%5.1f s] %s\n", now.Sub(work.start).Seconds(), text)
					told, at = text, now
				}
			}
		}
	}()
	ctx = progress.Into(context.WithValue(ctx, workKey{}, work), &work.report)
	return ctx, sync.OnceFunc(func() { close(end); <-ended })
}

// work is what a command is at.
type work struct {
	start  time.Time
	report progress.Report

	mu       sync.Mutex
	requests map[*request]struct{} // on the way
}

type workKey struct{}

// request is one to the API server.
type request struct {
	text  string
	since time.Time
}

// text says what is waited for: what the command has noted, and the request that has
// been on its way longest, if that is long.
func (w *work) text(now time.Time) string {
	var parts []string
	if noted, ok := w.report.Current(); ok {
		parts = append(parts, noted.Missing)
	}
	w.mu.Lock()
	var oldest *request
	for r := range w.requests {
		if oldest == nil || r.since.Before(oldest.since) {
			oldest = r
		}
	}
	w.mu.Unlock()
	told := slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(p, "the API server has not answered") })
	if oldest != nil && !told && now.Sub(oldest.since) >= patience/2 {
		parts = append(parts, "the API server has not answered "+oldest.text)
	}
	if len(parts) == 0 {
		return "still at work"
	}
	return strings.Join(parts, "; ")
}

// noticed has the requests of a client noticed by the work whose context they have.
func noticed(cfg *rest.Config) *rest.Config {
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return noticing{next} })
	return cfg
}

type noticing struct{ next http.RoundTripper }

func (n noticing) RoundTrip(req *http.Request) (*http.Response, error) {
	w, _ := req.Context().Value(workKey{}).(*work)
	if w == nil {
		return n.next.RoundTrip(req)
	}
	r := &request{text: req.Method + " " + req.URL.Path, since: time.Now()}
	w.mu.Lock()
	w.requests[r] = struct{}{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.requests, r)
		w.mu.Unlock()
	}()
	return n.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go look at what is below.
func (n noticing) WrappedRoundTripper() http.RoundTripper { return n.next }

// awaited is a set of names that something is waited for from, as a clause.
type awaited struct {
	what string // "agents have not answered"
	all  int

	mu   sync.Mutex
	left map[string]bool
}

func awaitedOf(what string, names []string) *awaited {
	a := &awaited{what: what, all: len(names), left: map[string]bool{}}
	for _, n := range names {
		a.left[n] = true
	}
	return a
}

func (a *awaited) heard(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.left, name)
}

// maxNamed is how many names are in one line.
const maxNamed = 5

// String is "2 of 16 agents have not answered: node4, node7".
func (a *awaited) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for n := range a.left {
		names = append(names, n)
	}
	slices.Sort(names)
	text := fmt.Sprintf("%d of %d %s", len(names), a.all, a.what)
	if more := len(names) - maxNamed; more > 0 {
		names = append(names[:maxNamed], fmt.Sprintf("%d more", more))
	}
	if len(names) > 0 {
		text += ": " + strings.Join(names, ", ")
	}
	return text
}
