package agent

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/felix/state"
)

// prober finds out whether the other nodes are reached by a new way before anything is
// sent that way, and answers the others' probes while some pool changes.
type prober struct {
	log  *slog.Logger
	do   modeActions
	wake func()
	pace probePace // of probe alone

	mu      sync.Mutex
	targets []state.Way // to be probed
	moving  bool        // some pool has not arrived on some node
	reach   netReach
	probes  map[state.Way]mode.Probe // results
}

// ask says what is to be probed, and what results are still needed besides.
func (p *prober) ask(targets []state.Way, needed func(state.Way) bool, moving bool, reach netReach) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets, p.moving, p.reach = slices.Clone(targets), moving, reach
	maps.DeleteFunc(p.probes, func(w state.Way, _ mode.Probe) bool { return !slices.Contains(targets, w) && !needed(w) })
}

// results are the last ones by way; one that is missing has not been probed.
func (p *prober) results() map[state.Way]mode.Probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.probes)
}

// probePace spaces out probes that keep failing: a change can be held for days, and a
// large cluster's probes are many. It belongs to probe.
type probePace struct {
	targets  []state.Way
	reach    netReach
	failures int
	rest     int // turns of modeRetry to be left out
}

const (
	// eagerProbes are sent every modeRetry: the others begin to answer one by one.
	eagerProbes = 5
	// restLimit is the longest pause between two rounds of probes, in turns of modeRetry.
	restLimit = 15
)

// due reports whether it is time to probe. What has not been tried is tried at once.
func (p *probePace) due(targets []state.Way, reach netReach) bool {
	if !slices.Equal(targets, p.targets) || !reflect.DeepEqual(reach, p.reach) {
		*p = probePace{targets: targets, reach: reach}
	}
	if p.rest > 0 {
		p.rest--
		return false
	}
	return true
}

// failed makes the next pause a turn longer.
func (p *probePace) failed() {
	p.failures++
	p.rest = min(max(0, p.failures-eagerProbes), restLimit-1) // there is one turn between any two
}

// probe probes what was asked for until it works.
func (p *prober) probe(ctx context.Context) (ok bool) {
	p.mu.Lock()
	reach := p.reach
	targets := slices.DeleteFunc(slices.Clone(p.targets), func(t state.Way) bool {
		result, done := p.probes[t]
		return done && len(result.Failed) == 0
	})
	p.mu.Unlock()
	if !p.pace.due(targets, reach) {
		return false
	}
	ok = true
	for _, target := range targets {
		failed := p.do.probe(ctx, target, reach)
		if ctx.Err() != nil {
			return false
		}
		ok = ok && len(failed) == 0
		p.mu.Lock()
		if slices.Contains(p.targets, target) {
			if p.probes == nil {
				p.probes = map[state.Way]mode.Probe{}
			}
			p.probes[target] = mode.Probe{Failed: failed}
		}
		p.mu.Unlock()
		p.wake()
	}
	if !ok {
		p.pace.failed()
	}
	return ok
}

func (p *prober) now() (moving bool, reach netReach) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moving, p.reach
}

// answer answers the others' probes while some pool changes.
func (p *prober) answer(ctx context.Context) (ok bool) {
	yes, reach := p.now()
	if !yes {
		return true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.do.answer(ctx, reach) }()
	for quiet := time.Duration(0); quiet < answerLinger; quiet += modeRetry {
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				p.log.Warn("probes of other nodes cannot be answered; trying again", "err", err)
			}
			return err == nil
		case <-p.do.after(modeRetry):
		}
		yes, now := p.now()
		if !maps.Equal(now.nodes, reach.nodes) {
			break // with the nodes as they are now
		}
		if yes {
			quiet = 0
		}
	}
	cancel()
	<-done
	return true
}
