package controllers

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestEpochSeesBreaks serves what a reflector asks for and counts the epochs.
func TestEpochSeesBreaks(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/gone":
			w.WriteHeader(http.StatusGone)
		case "/cut":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			panic(http.ErrAbortHandler)
		default:
			_, _ = io.WriteString(w, "{}")
		}
	}))
	defer server.Close()
	for _, c := range []struct {
		name, url string
		breaks    bool
	}{
		{"a list", server.URL + "/?limit=500", true},
		{"a watch that ends as it should", server.URL + "/?watch=true&resourceVersion=7", false},
		{"a watch that begins with a list", server.URL + "/?watch=true&sendInitialEvents=true", true},
		{"a watch of what is too old", server.URL + "/gone?watch=true", true},
		{"a watch that is cut", server.URL + "/cut?watch=true", true},
		{"no server", "http://127.0.0.1:1/?watch=true", true},
	} {
		var e epoch
		client := http.Client{Transport: e.wrap(http.DefaultTransport)}
		before := e.now()
		if response, err := client.Get(c.url); err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if broke := e.now() != before; broke != c.breaks {
			t.Errorf("%s: a new epoch: %v, want %v", c.name, broke, c.breaks)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestBackwards(t *testing.T) {
	for _, c := range []struct {
		before, now string
		want        bool
	}{
		{"10", "9", true}, {"10", "10", false}, {"9", "10", false}, {"", "5", false},
		{"5", "", false}, {"x", "1", false}, {"99999999999", "100000000000", false},
	} {
		if got := backwards(c.before, c.now); got != c.want {
			t.Errorf("from %q to %q: %v, want %v", c.before, c.now, got, c.want)
		}
	}
}
