package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// holdWrites makes the API server hold writes of blocks back until release is called or
// their caller gives up.
func (w *world) holdWrites() (release func()) {
	released := make(chan struct{})
	w.backend.SetHook(func(ctx context.Context, op fake.Op) (error, error) {
		if op.Verb == "update" && op.Resource == apiv1.PluralIPAMBlocks {
			select {
			case <-released:
			case <-ctx.Done():
			}
		}
		return nil, nil
	})
	return func() { w.backend.SetHook(nil); close(released) }
}

// slowLife is an agent with one pod, of which nothing else goes wrong.
func slowLife(t *testing.T) *life {
	w := newWorld(t, families{ipv4: true})
	l := w.start(kill{at: -1})
	warm := endpoint("warm", "cali0")
	l.mustAdd(warm)
	return l
}

func wantError(t *testing.T, err error, pattern string) {
	t.Helper()
	if err == nil || nodeapi.AsError(err).Code != nodeapi.CodeTryAgain || !regexp.MustCompile("^"+pattern+"$").MatchString(err.Error()) {
		t.Errorf("%v; want code 11 and %s", err, pattern)
	}
}

// What a pod's event says when the API server does not answer in time: what was asked
// of it, for how long, and what to do. It names no handle and no object.
func TestSlowAPIServerIsNamed(t *testing.T) {
	l := slowLife(t)
	release := l.holdWrites()
	const (
		unanswered = `the API server has not answered the write of block 10\.244\.0\.\d+/29 for [\d.]+ m?s`
		remedy     = `: check the API server and the network between it and this node`
	)
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	e := endpoint("slow", "cali1")
	_, err := l.api.Add(short(), nodeapi.AddRequest{Endpoint: e, IPv4: true})
	wantError(t, err, `assign an address to pod default/web: `+unanswered+remedy)
	err = l.api.Del(short(), nodeapi.DelRequest{Endpoint: endpoint("warm", "cali0")})
	wantError(t, err,
		`release the addresses of container warm: the API server has not answered the write of block 10\.244\.0\.\d+/29 for \S+ m?s`+remedy)
	release()
	l.mustDel(e)
	l.checkGone(e)
	l.mustDel(endpoint("warm", "cali0"))
	l.checkGone(endpoint("warm", "cali0"))
}

// The same by way of the socket: a plugin whose time is over says what the agent waits
// for, what was assigned for it afterwards is given back, and one that has time gets
// its address from the same slow API server.
func TestSlowAPIServerThroughTheSocket(t *testing.T) {
	l := slowLife(t)
	socket := filepath.Join(t.TempDir(), "run", "manx.sock")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- nodeapi.Serve(ctx, socket, l.api, slog.New(slog.DiscardHandler)) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	dial := func() (c *nodeapi.Client) {
		testwait.Succeeds(t, 30*time.Second, "the agent answers", func() (err error) {
			c, err = nodeapi.Dial(t.Context(), socket)
			return err
		})
		t.Cleanup(func() { c.Close() })
		return c
	}
	gone := endpoint("gone", "cali1")
	release := l.holdWrites()
	short, stop := context.WithTimeout(t.Context(), 1200*time.Millisecond)
	defer stop()
	c := dial()
	_, err := c.Add(short, nodeapi.AddRequest{Endpoint: gone, IPv4: true})
	wantError(t, err, `the Manx agent of this node is not done with add after [\d.]+ s: the API server has not answered the write `+
		`of block 10\.244\.0\.\d+/29 for [\d.]+ m?s: check the API server and the network between it and this node`)
	if !errors.As(err, new(*nodeapi.SlowError)) {
		t.Errorf("%T; want a SlowError", err)
	}
	c.Close()

	patient := dial()
	e := endpoint("patient", "cali2")
	if err := patient.SendAdd(t.Context(), nodeapi.AddRequest{Endpoint: e, IPv4: true}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(nodeapi.Patience+100*time.Millisecond, release)
	reply, err := patient.RecvAdd(t.Context())
	if err != nil || len(reply.Addrs) != 1 {
		t.Fatalf("%v, %v", reply, err)
	}
	testwait.Until(t, 30*time.Second, "the address of the plugin that gave up is given back",
		func() bool { return len(l.ipam.Held(handleOf(gone))) == 0 })
}

// An API server that takes connections and says nothing.
func TestSlowLookupIsNamed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := newPodAPI()
	p.lookup = (&podLookup{cache: memory{nil, true}, kube: kube, timeout: 20 * time.Millisecond}).find
	_, err = p.Add(t.Context(), nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true})
	wantError(t, err, `assign an address to pod default/web: the API server has not answered the read of pod default/web, `+
		`for its annotations, for \d+ ms: check the API server and the network between it and this node`)
}
