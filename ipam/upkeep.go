package ipam

import (
	"context"
	"net/netip"
	"time"

	"github.com/manx-cni/manx/internal/loop"
)

// upkeepEvery is how often the blocks are looked after, and rereadEvery how many
// times that until one of them is read again.
const (
	upkeepEvery = 30 * time.Second
	rereadEvery = 4
)

// recheckEvery is how often one block is read again because somebody asks.
const recheckEvery = time.Second

// recheck is what is known of a block that somebody had doubts about.
type recheck struct {
	asked bool      // since it was read
	read  time.Time // zero: never for this reason
}

// Recheck says that something about these blocks, or about addresses in them, is
// not as this node thinks: another announces them, for instance. Those that this
// node has to do with are read again soon, each at most once a second. It does
// not wait for that; Changed tells when it made a difference.
func (a *Allocator) Recheck(addrs ...netip.Prefix) {
	a.mu.Lock()
	asked := false
	for cidr := range a.blocks {
		for _, p := range addrs {
			if p.IsValid() && p.Overlaps(cidr) {
				check := a.rechecks[cidr]
				check.asked, asked = true, true
				a.rechecks[cidr] = check
				break
			}
		}
	}
	a.mu.Unlock()
	if asked {
		select {
		case a.suspects <- struct{}{}:
		default:
		}
	}
}

// upkeep looks after the blocks until ctx ends.
func (a *Allocator) upkeep(ctx context.Context) error {
	ticks := a.Ticks
	if ticks == nil {
		t := time.NewTicker(upkeepEvery)
		defer t.Stop()
		ticks = t.C
	}
	looks := 0
	later := time.NewTimer(recheckEvery)
	defer later.Stop()
	retry := loop.Retry{Min: recheckEvery, Max: upkeepEvery}
	suspects := func() {
		if !retry.Due() {
			later.Reset(recheckEvery)
			return
		}
		waiting, err := a.readSuspects(ctx)
		switch {
		case err != nil:
			later.Reset(retry.Failed())
			return
		case waiting:
			later.Reset(recheckEvery)
		}
		retry.Done()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks:
			looks++
			if !a.Locked() { // what is being migrated may be absent for a moment
				a.tidy(ctx, looks)
			}
		case <-a.suspects:
			suspects()
		case <-later.C:
			suspects()
		}
	}
}

// tidy is one look after the blocks: those whose state is not known are read, what
// is surplus is given back and what is lost repaired. Now and then one block is
// read again that nothing is wrong with, in turn, so that what happened behind our
// back is found in the end.
func (a *Allocator) tidy(ctx context.Context, looks int) {
	if !a.isSynced() {
		return
	}
	var read []netip.Prefix
	blocks := a.snapshot()
	for i, o := range blocks {
		if o.stale || looks%rereadEvery == 0 && looks/rereadEvery%len(blocks) == i {
			read = append(read, o.cidr)
		}
	}
	_ = a.readAgain(ctx, read...) // what cannot be read is stale, and read before it is used
	a.giveBack(ctx)
	ctx, err := a.begin(ctx)
	if err != nil {
		return
	}
	defer a.end()
	a.repair(ctx)
}

// readSuspects reads the blocks again that Recheck named and whose turn it is,
// and reports whether there is reason to look again: others wait for theirs, or what
// was read may be asked for again.
func (a *Allocator) readSuspects(ctx context.Context) (waiting bool, err error) {
	if a.Locked() {
		return true, nil // they are read when the lock is off
	}
	var due []netip.Prefix
	a.mu.Lock()
	now := a.Clock()
	for cidr, check := range a.rechecks {
		switch late := now.Sub(check.read) >= recheckEvery; {
		case check.asked && late:
			a.rechecks[cidr] = recheck{read: now}
			due = append(due, cidr)
		case check.asked:
			waiting = true
		case late:
			delete(a.rechecks, cidr)
		}
	}
	a.mu.Unlock()
	if err = a.readAgain(ctx, due...); err != nil {
		a.Log.Debug("blocks not read again, will be tried again", "err", err)
		a.Recheck(due...)
	}
	return waiting || len(due) > 0, err
}

// readAgain reads blocks again now.
func (a *Allocator) readAgain(ctx context.Context, cidrs ...netip.Prefix) error {
	if len(cidrs) == 0 {
		return nil
	}
	ctx, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer a.end()
	for _, cidr := range cidrs {
		a.markStale(cidr)
	}
	defer a.sweep()
	return a.refresh(ctx, map[netip.Prefix]bool{})
}
