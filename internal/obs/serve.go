package obs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Bounds of a request to the agent's listeners, whose answers are small and
// made from memory.
const (
	readTimeout  = 5 * time.Second
	writeTimeout = 15 * time.Second
	idleTimeout  = 60 * time.Second
	stopTimeout  = 2 * time.Second
	maxHeader    = 8 << 10 // bytes
)

// Server is one HTTP listener of the agent.
type Server struct {
	name string
	ln   net.Listener
	http *http.Server
}

// Listen opens the listener at once, so that an address in use ends the start
// and not the running agent. name is for messages: health, metrics.
func Listen(name, addr string, h http.Handler) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve %s on %s: %w; is another agent of Manx or Calico running on this node?", name, addr, err)
	}
	return &Server{name: name, ln: newCrowd(ln, maxConns), http: &http.Server{
		Handler:           attend(h),
		ConnContext:       introduce,
		ReadTimeout:       readTimeout,
		ReadHeaderTimeout: readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
	}}, nil
}

// Addr returns the address that is listened on, with the port the kernel chose
// when 0 was asked for.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Run serves until ctx ends, gives running requests two seconds, and returns nil
// then. It leaves no goroutine behind.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.http.Serve(s.ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s on %s: %w", s.name, s.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if s.http.Shutdown(stop) != nil {
		s.http.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s on %s: %w", s.name, s.Addr(), err)
	}
	return nil
}

// Close stops listening without having run.
func (s *Server) Close() error { return s.ln.Close() }
