package ipam

// Waiting returns how many requests wait for the next batch.
func (a *Allocator) Waiting() int { return len(a.requests) }
