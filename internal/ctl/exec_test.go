package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// forbid answers as an API server whose user lacks a verb on pods/exec.
func forbid(w http.ResponseWriter, _ *http.Request) {
	status := apierrors.NewForbidden(corev1.Resource("pods/exec"), "manx-a", errors.New("not you")).Status()
	status.Kind, status.APIVersion = "Status", "v1"
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(w).Encode(status)
}

const (
	succeeded = `{"kind":"Status","apiVersion":"v1","status":"Success"}`
	exitCode1 = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NonZeroExitCode",` +
		`"message":"exit code 1","details":{"causes":[{"reason":"ExitCode","message":"1"}]}}`
)

// overSPDY answers as a container that prints these.
func overSPDY(stdout, stderr, result string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { serveSPDY(w, r, stdout, stderr, result) }
}

func serveSPDY(w http.ResponseWriter, r *http.Request, stdout, stderr, result string) {
	if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 3)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		streams <- s
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	for range cap(streams) { // error, stdout, stderr
		s := <-streams
		fmt.Fprint(s, map[string]string{
			corev1.StreamTypeStdout: stdout, corev1.StreamTypeStderr: stderr, corev1.StreamTypeError: result,
		}[s.Headers().Get(corev1.StreamType)])
		s.Close()
	}
	<-conn.CloseChan()
}

// execAgainst runs a command through an API server that answers GET (WebSocket) and POST
// (SPDY) as given.
func execAgainst(t *testing.T, ctx context.Context, get, post http.HandlerFunc) ([]byte, error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/kube-system/pods/manx-a/exec" || r.URL.Query().Get("container") != agentContainer {
			t.Errorf("asked for %s", r.URL)
		}
		if r.Method == http.MethodGet {
			get(w, r)
		} else {
			post(w, r)
		}
	}))
	t.Cleanup(server.Close)
	cfg := &rest.Config{Host: server.URL}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return execIn(cfg, client)(ctx, agentPod("manx-a", "node1", corev1.PodRunning), "status")
}

// Where a WebSocket is refused SPDY is tried: "get" is not in every role, and WebSockets
// are not known to every proxy.
func TestExecFallsBack(t *testing.T) {
	hello := overSPDY("hello", "", succeeded)
	says := func(code int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, code) }
	}
	for name, tc := range map[string]struct {
		get, post http.HandlerFunc
		err       string
	}{
		"a role without get":              {get: forbid, post: hello},
		"a proxy that knows no WebSocket": {get: says(http.StatusBadRequest, "upgrade?"), post: hello},
		"a proxy that drops the upgrade":  {get: says(http.StatusOK, ""), post: hello},
		"a command that fails": {get: forbid,
			post: overSPDY("", "manxctl: no socket\n", exitCode1), err: "exit code 1: manxctl: no socket"},
		"a role with neither get nor more": {get: forbid, post: forbid, err: "not you"},
		"a node that the server can't dial": {get: says(http.StatusInternalServerError, "no route to host"),
			post: says(http.StatusInternalServerError, "no route to host"), err: "no route to host"},
	} {
		t.Run(name, func(t *testing.T) {
			var posts atomic.Int32
			out, err := execAgainst(t, t.Context(), tc.get, func(w http.ResponseWriter, r *http.Request) {
				posts.Add(1)
				tc.post(w, r)
			})
			if tc.err == "" && (err != nil || string(out) != "hello") {
				t.Errorf("%q, %v; want hello", out, err)
			}
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("%v; want %q", err, tc.err)
			}
			if posts.Load() != 1 {
				t.Errorf("SPDY was tried %d times", posts.Load())
			}
		})
	}
}

// An API server that does not answer SPDY holds nobody past their time.
func TestExecEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	late := errors.New("no answer within 10s")
	release := make(chan struct{})
	_, err := execAgainst(t, ctx, forbid, func(_ http.ResponseWriter, r *http.Request) {
		cancel(late)
		select {
		case <-release:
		case <-time.After(30 * time.Second):
			t.Error("it waited for the answer")
		}
	})
	close(release)
	if !errors.Is(err, late) {
		t.Errorf("%v; want %v", err, late)
	}
}

func TestWebSocketRefused(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("exec: %w", &httpstream.UpgradeFailureError{Cause: errors.New("bad handshake")}), true},
		{errors.New("proxy: unknown scheme: https"), true},
		{context.DeadlineExceeded, false},
		{io.ErrUnexpectedEOF, false},
		{errors.New("command terminated with exit code 1"), false},
	} {
		if got := webSocketRefused(tc.err); got != tc.want {
			t.Errorf("%v: %v", tc.err, got)
		}
	}
}
