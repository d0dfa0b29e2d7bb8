package delta

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func newTracker() *Tracker[int, string] {
	return New(func(a, b string) bool { return a == b }, cmp.Compare[int])
}

// model is the obvious implementation: two maps.
type model struct{ desired, actual map[int]string }

func (m model) updates() []int {
	var out []int
	for _, k := range slices.Sorted(maps.Keys(m.desired)) {
		if v, ok := m.actual[k]; !ok || v != m.desired[k] {
			out = append(out, k)
		}
	}
	return out
}

func (m model) deletes() []int {
	var out []int
	for _, k := range slices.Sorted(maps.Keys(m.actual)) {
		if _, ok := m.desired[k]; !ok {
			out = append(out, k)
		}
	}
	return out
}

func (m model) agreed() int {
	n := 0
	for k, v := range m.desired {
		if a, ok := m.actual[k]; ok && a == v {
			n++
		}
	}
	return n
}

// step makes one random change to both.
func step(r *rand.Rand, t *Tracker[int, string], m *model) {
	k, v := r.IntN(8), string(rune('a'+r.IntN(3)))
	some := func() map[int]string {
		out := map[int]string{}
		for range r.IntN(6) {
			out[r.IntN(8)] = string(rune('a' + r.IntN(3)))
		}
		return out
	}
	switch r.IntN(7) {
	case 0, 1:
		t.SetDesired(k, v)
		m.desired[k] = v
	case 2, 3:
		t.SetActual(k, v)
		m.actual[k] = v
	case 4:
		if r.IntN(2) == 0 {
			t.DeleteDesired(k)
			delete(m.desired, k)
		} else {
			t.DeleteActual(k)
			delete(m.actual, k)
		}
	case 5:
		m.desired = some()
		t.ReplaceDesired(maps.Clone(m.desired))
	case 6:
		m.actual = some()
		t.ReplaceActual(maps.Clone(m.actual))
	}
}

// TestAgainstModel runs random changes through the tracker and through two
// plain maps, and compares everything that can be asked after each.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		tr, m := newTracker(), model{map[int]string{}, map[int]string{}}
		for i := range 200 {
			step(r, tr, &m)
			if got, want := tr.Updates(), m.updates(); !slices.Equal(got, want) {
				t.Fatalf("seed %d step %d: updates %v, want %v", seed, i, got, want)
			}
			if got, want := tr.Deletes(), m.deletes(); !slices.Equal(got, want) {
				t.Fatalf("seed %d step %d: deletes %v, want %v", seed, i, got, want)
			}
			if got := maps.Collect(tr.AllDesired()); !maps.Equal(got, m.desired) {
				t.Fatalf("seed %d step %d: desired %v, want %v", seed, i, got, m.desired)
			}
			if got := maps.Collect(tr.AllActual()); !maps.Equal(got, m.actual) {
				t.Fatalf("seed %d step %d: actual %v, want %v", seed, i, got, m.actual)
			}
			if tr.Agreed() != m.agreed() || tr.DesiredLen() != len(m.desired) || tr.ActualLen() != len(m.actual) {
				t.Fatalf("seed %d step %d: counts %d %d %d", seed, i, tr.Agreed(), tr.DesiredLen(), tr.ActualLen())
			}
			if tr.InSync() != maps.Equal(m.desired, m.actual) {
				t.Fatalf("seed %d step %d: in sync %v", seed, i, tr.InSync())
			}
			if len(maps.Collect(tr.EachUpdate())) != len(m.updates()) || len(maps.Collect(tr.EachDelete())) != len(m.deletes()) {
				t.Fatalf("seed %d step %d: unordered walks differ from the ordered ones", seed, i)
			}
			for k := range 8 {
				dv, dok := tr.Desired(k)
				wv, wok := m.desired[k]
				av, aok := tr.Actual(k)
				xv, xok := m.actual[k]
				if dv != wv || dok != wok || av != xv || aok != xok {
					t.Fatalf("seed %d step %d key %d: %q %v %q %v", seed, i, k, dv, dok, av, aok)
				}
			}
		}
	}
}

// TestWorkingOff is what a driver does: apply what is pending while walking it.
func TestWorkingOff(t *testing.T) {
	tr := newTracker()
	tr.ReplaceActual(map[int]string{1: "a", 2: "b", 3: "c"})
	tr.ReplaceDesired(map[int]string{2: "b", 3: "C", 4: "d"})
	for _, k := range tr.Updates() {
		v, _ := tr.Desired(k)
		tr.SetActual(k, v)
	}
	for _, k := range tr.Deletes() {
		tr.DeleteActual(k)
	}
	if !tr.InSync() || tr.Agreed() != 3 {
		t.Errorf("still pending: %v %v", tr.Updates(), tr.Deletes())
	}
}

func TestStopWalking(t *testing.T) {
	tr := newTracker()
	tr.ReplaceDesired(map[int]string{1: "a", 2: "b"})
	tr.ReplaceActual(map[int]string{3: "a", 4: "b"})
	n := 0
	for range tr.AllDesired() {
		n++
		break
	}
	for range tr.EachDelete() {
		n++
		break
	}
	if n != 2 {
		t.Errorf("walked %d, want 2", n)
	}
}
