// Package delta keeps two views of one keyed thing, what is desired and what is
// actually there, and tells the difference.
//
// Every driver of the dataplane has one Tracker per kind of kernel object: the
// calculation sets the desired side, reading the kernel back sets the actual
// side, and Apply works off what is pending. The tracker does no I/O. A key
// whose two sides agree is stored once, so a hundred thousand routes that are
// in the kernel cost one copy each.
package delta

import (
	"iter"
	"maps"
	"slices"
)

// Tracker holds the desired and the actual value of every key. It is not safe
// for concurrent use: one goroutine owns it.
type Tracker[K comparable, V any] struct {
	// agreed holds keys whose desired and actual values are equal; wanted the
	// desired and found the actual values of all others. A key in agreed is in
	// neither of the other two.
	agreed, wanted, found map[K]V

	equal   func(a, b V) bool
	compare func(a, b K) int
}

// New makes an empty tracker. equal says when an actual value needs no update;
// compare gives the order in which pending work is listed.
func New[K comparable, V any](equal func(a, b V) bool, compare func(a, b K) int) *Tracker[K, V] {
	return &Tracker[K, V]{
		agreed: map[K]V{}, wanted: map[K]V{}, found: map[K]V{},
		equal: equal, compare: compare,
	}
}

// Desired returns the desired value of k.
func (t *Tracker[K, V]) Desired(k K) (V, bool) { return lookup(t.agreed, t.wanted, k) }

// Actual returns the actual value of k.
func (t *Tracker[K, V]) Actual(k K) (V, bool) { return lookup(t.agreed, t.found, k) }

func lookup[K comparable, V any](first, second map[K]V, k K) (V, bool) {
	if v, ok := first[k]; ok {
		return v, true
	}
	v, ok := second[k]
	return v, ok
}

// SetDesired says that k should have the value v.
func (t *Tracker[K, V]) SetDesired(k K, v V) {
	if actual, ok := t.Actual(k); ok {
		t.place(k, v, actual)
		return
	}
	t.wanted[k] = v
}

// DeleteDesired says that k should not be there.
func (t *Tracker[K, V]) DeleteDesired(k K) {
	delete(t.wanted, k)
	if v, ok := t.agreed[k]; ok {
		delete(t.agreed, k)
		t.found[k] = v
	}
}

// SetActual says that k was found, or has just been written, with the value v.
func (t *Tracker[K, V]) SetActual(k K, v V) {
	if desired, ok := t.Desired(k); ok {
		t.place(k, desired, v)
		return
	}
	t.found[k] = v
}

// DeleteActual says that k is not there.
func (t *Tracker[K, V]) DeleteActual(k K) {
	delete(t.found, k)
	if v, ok := t.agreed[k]; ok {
		delete(t.agreed, k)
		t.wanted[k] = v
	}
}

// place stores a key that has both values.
func (t *Tracker[K, V]) place(k K, desired, actual V) {
	if t.equal(desired, actual) {
		delete(t.wanted, k)
		delete(t.found, k)
		t.agreed[k] = desired
		return
	}
	delete(t.agreed, k)
	t.wanted[k] = desired
	t.found[k] = actual
}

// ReplaceDesired makes the whole desired side equal to want.
func (t *Tracker[K, V]) ReplaceDesired(want map[K]V) {
	for _, m := range []map[K]V{t.agreed, t.wanted} {
		for k := range m {
			if _, keep := want[k]; !keep {
				t.DeleteDesired(k)
			}
		}
	}
	for k, v := range want {
		t.SetDesired(k, v)
	}
}

// ReplaceActual makes the whole actual side equal to have: what a complete
// read-back of the kernel found.
func (t *Tracker[K, V]) ReplaceActual(have map[K]V) {
	for _, m := range []map[K]V{t.agreed, t.found} {
		for k := range m {
			if _, keep := have[k]; !keep {
				t.DeleteActual(k)
			}
		}
	}
	for k, v := range have {
		t.SetActual(k, v)
	}
}

// Updates lists the keys to create or change, in order. The list is a copy, so
// the tracker may be changed while walking it.
func (t *Tracker[K, V]) Updates() []K {
	return slices.SortedFunc(maps.Keys(t.wanted), t.compare)
}

// Deletes lists the keys that are there and should not be, in order.
func (t *Tracker[K, V]) Deletes() []K {
	var keys []K
	for k := range t.found {
		if _, changed := t.wanted[k]; !changed {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, t.compare)
	return keys
}

// EachUpdate walks what Updates lists, with the desired values, in no
// particular order and without a copy.
func (t *Tracker[K, V]) EachUpdate() iter.Seq2[K, V] { return maps.All(t.wanted) }

// EachDelete walks what Deletes lists, with the actual values, in no particular
// order and without a copy.
func (t *Tracker[K, V]) EachDelete() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, v := range t.found {
			if _, changed := t.wanted[k]; !changed && !yield(k, v) {
				return
			}
		}
	}
}

// AllDesired walks the desired side in no particular order.
func (t *Tracker[K, V]) AllDesired() iter.Seq2[K, V] { return both(t.agreed, t.wanted) }

// AllActual walks the actual side in no particular order.
func (t *Tracker[K, V]) AllActual() iter.Seq2[K, V] { return both(t.agreed, t.found) }

func both[K comparable, V any](first, second map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, m := range []map[K]V{first, second} {
			for k, v := range m {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// Agreed counts the keys whose two sides are equal.
func (t *Tracker[K, V]) Agreed() int { return len(t.agreed) }

// DesiredLen counts the desired keys.
func (t *Tracker[K, V]) DesiredLen() int { return len(t.agreed) + len(t.wanted) }

// ActualLen counts the keys that are there.
func (t *Tracker[K, V]) ActualLen() int { return len(t.agreed) + len(t.found) }

// InSync reports whether nothing is pending.
func (t *Tracker[K, V]) InSync() bool { return len(t.wanted) == 0 && len(t.found) == 0 }
