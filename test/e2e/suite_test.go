//go:build cluster

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/guard"
	"github.com/manx-cni/manx/test/vm"
)

// cluster and client are the lab of the test that runs, with Manx and the web pods in it;
// shape is what it is made of. Tests run one after the other.
var (
	cluster *lab.Cluster
	client  *kubernetes.Clientset
	shape   lab.Options
)

// suite owns the labs of a run. A lab comes up for the first test that needs its kind and
// goes after the last.
type suite struct {
	// left is how many tests of each kind are yet to come.
	left map[string]int
	// joined is the directory of the control plane outside the guest that this is, see guest_test.go.
	joined string

	mu   sync.Mutex
	labs map[string]*openLab
	// failed is set when a test has failed, so that its lab is looked at before it goes.
	failed map[string]bool
}

type openLab struct {
	cluster *lab.Cluster
	client  *kubernetes.Clientset
	down    func() error
	err     error
}

var theSuite = &suite{labs: map[string]*openLab{}, failed: map[string]bool{}, left: map[string]int{}}

// use makes the lab of a kind the one of the test that runs.
func (s *suite) use(ctx context.Context, k kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.labs[k.name]
	if r == nil {
		r = &openLab{}
		s.labs[k.name] = r
		start := time.Now()
		r.err = s.start(ctx, k, r)
		fmt.Fprintf(os.Stderr, "lab %q with Manx and web pods: %.1f s\n", k.name, time.Since(start).Seconds())
	}
	cluster, client, shape = r.cluster, r.client, k.shape
	return r.err
}

// start brings a lab up, with what every test uses on it.
func (s *suite) start(ctx context.Context, k kind, r *openLab) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*patience)
	defer cancel()
	if name := os.Getenv(reuseEnv); name != "" {
		r.cluster, err = lab.Open(name)
	} else {
		r.cluster, r.down, err = bringUp(ctx, k, s.joined)
	}
	if err != nil {
		return err
	}
	cfg, err := r.cluster.RESTConfig()
	if err != nil {
		return err
	}
	cfg.Timeout = patience // a request that hangs is a failure, and names itself
	if r.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	cluster, client, shape = r.cluster, r.client, k.shape
	return install(ctx)
}

// done takes a lab down after the last test of its kind.
func (s *suite) done(t *testing.T, k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed[k.name] = s.failed[k.name] || t.Failed()
	if s.left[k.name]--; s.left[k.name] > 0 {
		return
	}
	if emulated() {
		t.Logf("where the time of the CPUs went, in seconds, of programs and their children: %s", cpuAccount())
	}
	if err := s.end(k.name); err != nil {
		t.Error(err)
	}
}

// end takes a lab down, whatever state it is in; that there is none is no error.
func (s *suite) end(name string) error {
	r := s.labs[name]
	if r == nil {
		return nil
	}
	delete(s.labs, name)
	if r.cluster != nil && (s.failed[name] || r.err != nil) {
		k, err := kindNamed(name)
		if err == nil {
			cluster, client, shape = r.cluster, r.client, k.shape
			diagnose(context.Background(), os.Stderr)
		}
	}
	if r.down == nil {
		return nil
	}
	return r.down()
}

// close takes down what is left.
func (s *suite) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name := range s.labs {
		errs = append(errs, s.end(name))
	}
	return errors.Join(errs...)
}

// bringUp starts a lab. Its removal is the work of a guard: this program again, in a
// process group of its own, which does it when its standard input ends. So the lab also
// goes when a test panics, times out or is killed.
func bringUp(ctx context.Context, k kind, joined string) (c *lab.Cluster, down func() error, err error) {
	o := k.shape
	if o.Light {
		o.Manifest = manifest
	} else {
		archive := os.Getenv(imageEnv)
		if archive == "" {
			return nil, nil,
				fmt.Errorf("%s is not set: it names the archive of the Manx image; \"make e2e\" makes both, \"make image\" the archive", imageEnv)
		}
		if _, err := os.Stat(archive); err != nil {
			return nil, nil, fmt.Errorf("%s: %w; \"make image\" makes it", imageEnv, err)
		}
		o.Images = []string{archive}
		o.Mode = "" // install has its own manifest
	}
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, nil, err
	}
	o.Name = "e2e" + hex.EncodeToString(id)
	if down, err = guard.Start(o.Name); err != nil {
		return nil, nil, err
	}
	o.Progress = func(s string) { fmt.Fprintln(os.Stderr, "lab", o.Name+":", s) }
	// TestIPAMRequests counts in the log. An emulated machine runs other tests.
	o.Audit = !emulated()
	if joined != "" {
		o.Join, o.JoinDevice = joined, vm.Uplink(0)
	}
	c, err = lab.Up(ctx, o)
	if err != nil {
		return nil, nil, errors.Join(err, down())
	}
	return c, down, nil
}
