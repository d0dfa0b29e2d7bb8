package ipam

import "time"

// An exhausted pool is what a thousand pods that cannot start ask about again
// and again. So what a look at every block came to is remembered for a moment.

// exhaustionLasts is how long: a block that became free elsewhere, or a change of
// strictAffinity, is found this much later.
const exhaustionLasts = time.Second

// exhaustion says that a choice of pools had no block to claim.
type exhaustion struct {
	until time.Time
	full  *PoolFullError // nil: but addresses to borrow
}

// noteExhausted remembers that a choice has no block to claim, and with full
// that it has nothing to borrow either.
func (a *Allocator) noteExhausted(c *claim, full *PoolFullError) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Clock()
	for key, e := range a.exhausted {
		if !now.Before(e.until) {
			delete(a.exhausted, key)
		}
	}
	a.exhausted[c.key] = exhaustion{now.Add(exhaustionLasts), full}
}

// isExhausted returns the error that a claim would end with, if that is known.
func (a *Allocator) isExhausted(c *claim) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.exhausted[c.key]
	if !ok || e.full == nil || !a.Clock().Before(e.until) || c.want-c.free <= e.full.Lendable {
		return nil
	}
	full := *e.full
	full.Want, full.Free = c.want, c.free
	return &full
}

// mayBorrow reports whether a choice is known to have no block to claim, so that
// addresses may be borrowed where this node does so already.
func (a *Allocator) mayBorrow(key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.exhausted[key]
	return ok && e.full == nil && a.Clock().Before(e.until)
}

// forgetExhausted is called when this node's blocks have room again.
func (a *Allocator) forgetExhausted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.exhausted)
}
