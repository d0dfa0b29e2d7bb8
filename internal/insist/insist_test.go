package insist

import (
	"testing"
	"time"
)

func TestMay(t *testing.T) {
	now := time.Unix(1e9, 0)
	var i Insistence
	var at []time.Duration
	for d := time.Duration(0); d < 5*time.Minute; d += 100 * time.Millisecond {
		if i.May(now.Add(d)) {
			at = append(at, d)
		}
	}
	want := []time.Duration{0, 1, 3, 7, 15, 31, 63, 123, 183, 243}
	if len(at) != len(want) {
		t.Fatalf("at %v, want seconds %v", at, want)
	}
	for n := range want {
		if at[n] != want[n]*time.Second {
			t.Errorf("at %v, want seconds %v", at, want)
			break
		}
	}
	if !i.Fought() || i.May(i.Next().Add(-1)) || !i.May(i.Next()) {
		t.Error("the next time is not when Next says")
	}
	if calm := i.Next().Add(Calm); !i.May(calm) || i.Fought() || !i.May(calm.Add(First)) {
		t.Error("after a calm time it does not begin again")
	}
}
