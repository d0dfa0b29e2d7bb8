package preflight

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Run probes every target and answers their probes, until everything was heard and
// answered and those who started last have had the time to hear, or until
// Config.Wait is over; the report says which. All nodes run it at the same time. An
// error means that it could not be tried, or that ctx ended early.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return Report{}, err
	}
	e, err := newEngine(ctx, cfg)
	if err != nil {
		return Report{}, err
	}
	e.resend = true
	if cfg.Kind == KindIPIP {
		e.answers = newResponder(func(a netip.Addr) bool { return e.peers[a] != nil }, ipipTo(e.ipip, cfg.Self.Addr))
	}
	started := time.Now()
	if err := e.bounded(ctx, func(r Result) bool { return r.Answered && (r.Heard || !r.Check.heard()) }, true); err != nil {
		return Report{}, err
	}
	rep := Report{Node: cfg.Self, Kind: cfg.Kind, MTU: cfg.MTU, Started: started, Ended: time.Now(), Results: e.results()}
	if cfg.Kind == KindBGP {
		rep.Port = cfg.BGPPort
	}
	return rep, nil
}

// Probe probes every target and answers nobody; it returns when all have answered
// or Config.Wait is over. Targets of KindIPIP are those where Answer or Run runs.
func Probe(ctx context.Context, cfg Config) ([]Result, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	e, err := newEngine(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := e.bounded(ctx, func(r Result) bool { return r.Answered }, false); err != nil {
		return nil, err
	}
	return e.results(), nil
}

// bounded runs for Config.Wait at most.
func (e *engine) bounded(ctx context.Context, done func(Result) bool, linger bool) error {
	short, cancel := context.WithTimeout(ctx, e.cfg.Wait)
	defer cancel()
	err := e.run(short, done, linger)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("preflight %s: %w", e.cfg.Kind, err)
	}
	return nil
}
