package controllers

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// epoch counts the breaks in what the informers see.
type epoch struct{ n atomic.Uint64 }

func (e *epoch) now() uint64 { return e.n.Load() }
func (e *epoch) bump()       { e.n.Add(1) }

// wrap lets the epoch see every request of the informers. A reflector repeats a
// watch that ends without telling anybody, also when the API server was away for
// an hour, so the watch error handler alone would miss most reconnects.
func (e *epoch) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		if err != nil || response.StatusCode >= http.StatusBadRequest || lists(r) {
			e.bump()
		}
		if err == nil {
			response.Body = &body{ReadCloser: response.Body, broken: e.bump}
		}
		return response, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// lists reports whether a request asks for all objects: a list, or a watch that
// starts with them.
func lists(r *http.Request) bool {
	q := r.URL.Query()
	watch := q.Get("watch") == "true" || q.Get("watch") == "1"
	return !watch || q.Get("sendInitialEvents") == "true"
}

// body notices a stream that does not end as the server meant it to.
type body struct {
	io.ReadCloser
	broken func()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.broken()
	}
	return n, err
}
