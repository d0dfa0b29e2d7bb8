package apiserver

import (
	"errors"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/rest"

	"github.com/manx-cni/manx/test/lab/machine"
)

// Server is a running etcd and kube-apiserver. Its methods kill with SIGKILL, as
// crashes do, and start again with the same arguments and ports; they are for one
// goroutine at a time.
type Server struct {
	// Config is the administrator's access. It stays the same.
	Config *rest.Config

	*server
	etcd, api *component
	data      string // etcd's directory
}

// StopAPIServer kills the API server. etcd stays.
func (s *Server) StopAPIServer() { s.stop(s.api) }

// StartAPIServer starts the API server again and returns when it is ready.
func (s *Server) StartAPIServer() error { return s.again(&s.api) }

// SaveEtcd stops etcd for as long as it takes to copy its data to dir, which must
// not exist. The API server waits.
func (s *Server) SaveEtcd(dir string) error {
	s.stop(s.etcd)
	if err := os.CopyFS(dir, os.DirFS(s.data)); err != nil {
		return fmt.Errorf("copy etcd's data: %w", err)
	}
	return s.again(&s.etcd)
}

// RestoreEtcd puts a copy in place of etcd's data and starts both again: what was
// written since then never happened. It is what an administrator does with a backup.
func (s *Server) RestoreEtcd(dir string) error {
	s.stop(s.api)
	s.stop(s.etcd)
	if err := os.RemoveAll(s.data); err != nil {
		return fmt.Errorf("remove etcd's data: %w", err)
	}
	if err := os.CopyFS(s.data, os.DirFS(dir)); err != nil {
		return fmt.Errorf("restore etcd's data: %w", err)
	}
	if err := s.again(&s.etcd); err != nil {
		return err
	}
	return s.again(&s.api)
}

// again starts a component that was stopped. Another program may have its port for
// a moment, as the source of a connection; then it is tried once more.
func (s *server) again(c **component) error {
	before := *c
	for deadline := time.Now().Add(patience); ; {
		now, err := s.start(before.name, before.args...)
		if err != nil {
			return fmt.Errorf("start %s again: %w", before.name, err)
		}
		now.ready = before.ready
		*c = now
		if err = now.await(now.ready); err == nil {
			s.t.Cleanup(func() { s.stop(now) })
			return nil
		}
		s.stop(now)
		if !errors.Is(err, errEnded) || time.Now().After(deadline) {
			return fmt.Errorf("start %s again: %w; its log ends with:\n%s", before.name, err, machine.Tail(now.log, 20))
		}
	}
}
