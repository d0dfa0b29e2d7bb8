package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// TestDrain: the stages follow one another, the loop is woken for each, and an agent that
// starts later goes on where its predecessor was.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDrain()
		if got := d.stage(""); got != bgp.NotDrained {
			t.Fatal(got)
		}
		set := time.Now().UTC().Format(time.RFC3339)
		for _, want := range []bgp.Drain{bgp.DrainShutdown, bgp.DrainWithdrawn, bgp.DrainClosed} {
			if got := d.stage(set); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
			if later := newDrain(); later.stage(set) != want {
				t.Errorf("a restarted agent is not at %q", want)
			}
			if want != bgp.DrainClosed {
				<-d.wake
			}
		}
		if got := d.stage(""); got != bgp.NotDrained {
			t.Errorf("undrained: %s", got)
		}
		if got := d.stage("soon"); got != bgp.DrainShutdown {
			t.Errorf("a text that is no time: %s, want from now on", got)
		}
		if got := newDrain().stage("1999-01-01T00:00:00Z"); got != bgp.DrainClosed {
			t.Errorf("long ago: %s", got)
		}
	})
}
