package felix

import (
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/internal/family"
)

// TestChanged: what others go by is told once, and an apply that changes nothing of it is
// not told at all.
func TestChanged(t *testing.T) {
	n := newNode(t)
	d, _ := n.start(func(c *Config) { c.Refresh = 50 * time.Millisecond })
	told := func() bool {
		select {
		case <-d.Changed():
			return true
		default:
			return false
		}
	}
	in := n.input()
	in.Generation = 1
	d.SetState(in)
	nltest.Eventually(t, "it is told that the dataplane is in sync",
		func() bool { return told() && d.Status().InSync && d.Status().Applied == 1 })
	ready(t, d)
	told() // of the last that led there

	applies := d.Status().Applies
	nltest.Eventually(t, "three more rounds", func() bool { return d.Status().Applies >= applies+3 })
	if told() {
		t.Errorf("rounds without a change are told: %+v", d.Status())
	}
	nltest.Run(t, "ip", "link", "set", uplinkName, "mtu", "1400")
	t.Cleanup(func() { nltest.Run(t, "ip", "link", "set", uplinkName, "mtu", "1500") })
	nltest.Eventually(t, "the uplink's MTU is told", func() bool { return told() && d.Status().Uplinks[family.IPv4].MTU == 1400 })

	in.Generation = 2
	d.SetState(in)
	nltest.Eventually(t, "the next input is told as applied", func() bool { return told() && d.Status().Applied == 2 })
}
