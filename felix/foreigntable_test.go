package felix

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// TestForeignTable: beside 10,000 routes of another program in each family ours are repaired
// whatever happens to them, and the others' are as they were. The kernel is read back
// for an event, and at most once an interval: no storm of events is a storm of dumps.
func TestForeignTable(t *testing.T) {
	const others, learned = 10_000, 500
	n := newDualNode(t)
	d, _ := n.start(func(c *Config) { c.Interval = DefaultInterval })
	in := n.withRouter(n.dualInput())
	for i := range learned {
		a4, a6 := netip.AddrFrom4([4]byte{10, 245, byte(i >> 2), byte(i << 6)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:245:%x::", i))
		in.Learned = append(in.Learned,
			calc.Learned{Prefix: netip.PrefixFrom(a4, 26), NextHops: addrsOf(outsideAddr, "192.0.2.3")},
			calc.Learned{Prefix: netip.PrefixFrom(a6, 122), NextHops: addrsOf(outsideAddr6, "2001:db8::3")})
	}
	batch := func(name, command string) string {
		var b strings.Builder
		for i := range others {
			fmt.Fprintf(&b, "%s 11.%d.%d.0/24 via 192.0.2.9 dev %s proto 186\n", command, i>>8, i&255, uplinkName)
			fmt.Fprintf(&b, "%s 2001:db8:a:%x::/64 via 2001:db8::9 dev %s proto 186\n", command, i, uplinkName)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	add, replace := batch("add", "route add"), batch("replace", "route replace")
	set(t, d, &in)
	nltest.Run(t, "ip", "-batch", add)
	t.Cleanup(func() {
		nltest.Run(t, "ip", "route", "flush", "proto", "186")
		nltest.Run(t, "ip", "-6", "route", "flush", "proto", "186")
	})
	ready(t, d)
	table := func(proto string) string {
		return nltest.Run(t, "ip", "route", "show", "proto", proto) + nltest.Run(t, "ip", "-6", "route", "show", "proto", proto)
	}
	ours, theirs := table("70"), table("186")
	if got := strings.Count(theirs, "via"); got != 2*others {
		t.Fatalf("%d routes of others, want %d", got, 2*others)
	}
	if got := strings.Count(ours, "nexthop via"); got != 4*learned {
		t.Fatalf("%d next hops of ours, want %d", got, 4*learned)
	}
	flap := func() {
		for _, state := range []string{"down", "up"} {
			n.outside.Run(t, "ip", "link", "set", "eth0", state)
		}
		n.outside.Run(t, "ip", "addr", "replace", outsideAddr6+"/64", "dev", "eth0", "nodad")
	}
	for _, tc := range []struct {
		name string
		do   func()
	}{
		{"our protocol is flushed", func() {
			nltest.Run(t, "ip", "route", "flush", "proto", "70")
			nltest.Run(t, "ip", "-6", "route", "flush", "proto", "70")
		}},
		{"routes are deleted one by one", func() {
			for i := range 20 {
				nltest.Run(t, "ip", "route", "del", fmt.Sprintf("10.245.%d.0/26", i), "proto", "70")
				nltest.Run(t, "ip", "-6", "route", "del", fmt.Sprintf("fd00:10:245:%x::/122", i), "proto", "70")
			}
		}},
		{"the way to the router is deleted", func() { nltest.Run(t, "ip", "route", "del", far[0].router, "proto", "70") }},
		{"the link flaps", flap},
		{"the link flaps ten times", func() {
			for range 10 {
				flap()
			}
		}},
		{"others write their table again", func() { nltest.Run(t, "ip", "-batch", replace) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before, start := d.Status(), time.Now()
			tc.do()
			done := time.Now()
			// The watcher has told of everything, and the loop has taken it.
			nltest.Eventually(t, "the dataplane has noticed, our routes are as they were, and it is at rest", func() bool {
				s := d.Status()
				return s.Applies > before.Applies && s.Driver("route").Pending == 0 && len(s.Conditions) == 0 &&
					time.Since(s.Time) > 3*DefaultInterval && table("70") == ours
			})
			after, took := d.Status(), time.Since(start)
			dumps := after.Driver("route").Resyncs - before.Driver("route").Resyncs
			t.Logf("done in %v, last apply %v later: %d dumps, %d writes, %d applies, the last in %.3f s", done.Sub(start).Round(time.Millisecond),
				after.Time.Sub(done).Round(time.Millisecond), dumps, after.Driver("route").Writes-before.Driver("route").Writes,
				after.Applies-before.Applies, after.Driver("route").LastApplySeconds)
			if most := uint64(took/DefaultInterval) + 1; dumps > most {
				t.Errorf("the kernel was read back %d times in %v, want %d at most", dumps, took, most)
			}
			if errs := after.Driver("route").Errors - before.Driver("route").Errors; errs != 0 {
				t.Errorf("%d changes were refused", errs)
			}
			if table("186") != theirs {
				t.Error("routes of others are not as they were")
			}
		})
	}
	// News of what came before may be late, and is one look's reason.
	nltest.Eventually(t, "a look that has no reason reads nothing back", func() bool {
		before := d.Status()
		d.loop.Wake()
		nltest.Eventually(t, "the dataplane has looked", func() bool { return d.Status().Applies > before.Applies })
		return d.Status().Driver("route").Resyncs == before.Driver("route").Resyncs
	})
}
