//go:build cluster

package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// storm is a time in which pods come and go, and things are killed.
type storm struct {
	w        *world
	seed     uint64
	kubelets []*kubelet
	wanted   map[*node]*atomic.Int64 // pods per kubelet
	phase    uint64
}

const (
	kubeletsPerNode = 4
	// mostPods is how many pods a kubelet has at flood: four of them then want more
	// addresses than half of the pool has.
	mostPods = 10
)

func newStorm(w *world, seed uint64, dual bool) *storm {
	s := &storm{w: w, seed: seed, wanted: map[*node]*atomic.Int64{}}
	for i, n := range w.nodes {
		s.wanted[n] = new(atomic.Int64)
		s.wanted[n].Store(mostPods / 3)
		for j := range kubeletsPerNode {
			s.kubelets = append(s.kubelets, &kubelet{
				w: w, n: n, name: fmt.Sprintf("%s-%d", n.name, j), dual: dual,
				rng: rand.New(rand.NewPCG(seed, uint64(100*i+j))),
			})
		}
	}
	return s
}

// blow lets the storm go on for that long, and returns when every call that was
// begun is over and everything is up. Without nemesis nothing is killed.
func (s *storm) blow(ctx context.Context, d time.Duration, nemesis bool) error {
	s.phase++
	over, stop := context.WithTimeout(ctx, d)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, d+2*patience)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, k := range s.kubelets {
		g.Go(func() error {
			for over.Err() == nil && ctx.Err() == nil {
				if err := k.step(ctx, int(s.wanted[k.n].Load())); err != nil {
					return fmt.Errorf("%s: %w", k.name, err)
				}
				linger(over, k.rng, 30*time.Millisecond)
			}
			return nil
		})
	}
	g.Go(func() error { s.tide(over); return nil })
	if nemesis {
		g.Go(func() error { return s.killAgents(over) })
		g.Go(func() error { return s.killControllers(over, d) })
		g.Go(func() error { return s.killServer(over, d) })
	}
	return g.Wait()
}

// linger waits a random time of at most limit, or until ctx ends.
func linger(ctx context.Context, rng *rand.Rand, limit time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(rng.Int64N(int64(limit)))):
	}
}

func (s *storm) rng(stream uint64) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed+s.phase, 1e6+stream))
}

// tide lets a node want few pods now and many then, so that nodes run short of
// blocks while others have empty ones.
func (s *storm) tide(ctx context.Context) {
	rng := s.rng(0)
	for ctx.Err() == nil {
		ebb, flood := rng.IntN(len(s.w.nodes)), rng.IntN(len(s.w.nodes))
		s.wanted[s.w.nodes[flood]].Store(mostPods/2 + rng.Int64N(mostPods/2+1))
		s.wanted[s.w.nodes[ebb]].Store(rng.Int64N(2))
		linger(ctx, rng, 4*time.Second)
	}
}

// killAgents kills agents and starts them again.
func (s *storm) killAgents(ctx context.Context) error {
	rng := s.rng(1)
	for {
		linger(ctx, rng, 1500*time.Millisecond)
		if ctx.Err() != nil {
			return nil
		}
		n := s.w.nodes[rng.IntN(len(s.w.nodes))]
		n.kill()
		s.w.did.kills.Add(1)
		linger(ctx, rng, 500*time.Millisecond)
		if err := n.start(); err != nil {
			return err
		}
	}
}

// killControllers ends the controllers and starts them again, by SIGKILL and with
// leave to give up the lease: once in the second quarter, and then rarely enough for
// them to get the lease back and do something.
func (s *storm) killControllers(ctx context.Context, d time.Duration) error {
	rng := s.rng(3)
	next := d/4 + time.Duration(rng.Int64N(int64(d/4)))
	for s.w.controllers != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
		if rng.IntN(2) == 0 {
			s.w.controllers.kill()
		} else {
			s.w.controllers.stop()
		}
		s.w.did.controllerKills.Add(1)
		if err := s.w.startControllers(); err != nil {
			return err
		}
		next = 30*time.Second + time.Duration(rng.Int64N(int64(30*time.Second)))
	}
	return nil
}

// killServer kills the API server and starts it again: once in the second quarter,
// and then every other minute or so.
func (s *storm) killServer(ctx context.Context, d time.Duration) error {
	rng := s.rng(2)
	next := d/4 + time.Duration(rng.Int64N(int64(d/4)))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
		s.w.server.StopAPIServer()
		s.w.did.serverRestarts.Add(1)
		linger(ctx, rng, 2*time.Second)
		if err := s.w.server.StartAPIServer(); err != nil {
			return err
		}
		next = time.Minute + time.Duration(rng.Int64N(int64(time.Minute)))
	}
}

// flood ends all pods, and then fills one node until it has taken an empty block of
// another. In a storm blocks are rarely empty when somebody looks for one.
func (s *storm) flood(n *node) {
	s.w.t.Helper()
	ctx, cancel := context.WithTimeout(s.w.t.Context(), 2*patience)
	defer cancel()
	for _, k := range s.kubelets {
		for len(k.pods) > 0 {
			if err := k.stop(ctx); err != nil {
				s.w.t.Fatal(err)
			}
		}
	}
	s.w.report("without a pod", s.w.settle(ctx, collected))
	before := s.w.counted().Reclaimed
	for _, k := range s.kubelets {
		for range 2 * mostPods {
			if k.n != n || s.w.counted().Reclaimed > before {
				break
			}
			if err := k.start(ctx); err != nil {
				s.w.t.Fatal(err)
			}
		}
	}
}

// someWithPods returns a kubelet that has a pod, if any has.
func (s *storm) someWithPods() *kubelet {
	for _, k := range s.kubelets {
		if len(k.pods) > 0 {
			return k
		}
	}
	return s.kubelets[0]
}
