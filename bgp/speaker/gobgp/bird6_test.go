package gobgp_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
)

// BIRD as a node with both families: each gets the other's blocks on the session of
// their family, a killed Manx leaves no trace of IPv6 in the other's kernel, and a real
// withdrawal does.
func TestBirdIPv6(t *testing.T) {
	t.Parallel()
	// a < bird: BIRD dials. z > bird: Manx dials.
	for _, names := range [][]string{{"a", "bird"}, {"bird", "z"}} {
		self := names[0]
		if self == "bird" {
			self = names[1]
		}
		t.Run(self, func(t *testing.T) {
			t.Parallel()
			f := newDualFabric(t, names...)
			b := f.dualBird("bird", self, fmt.Sprintf("route %s blackhole;", f.block("bird")), fmt.Sprintf("route %s blackhole;", f.block6("bird")))
			a := f.start(f.spec(self))
			inKernel := func(family string, block netip.Prefix, via netip.Addr) bool {
				out, err := exec.Command("ip", "-n", f.ns("bird"), family, "route", "show", block.String()).Output()
				return err == nil && strings.Contains(string(out), "via "+via.String()+" ")
			}
			complete := func() bool {
				return inKernel("-4", f.block(self), f.addr(self)) && inKernel("-6", f.block6(self), f.addr6(self)) &&
					a.has(f.block("bird"), f.addr("bird")) && a.has(f.block6("bird"), f.addr6("bird")) && a.report().Converged
			}
			wait(t, 40*time.Second, "all four blocks are learned", complete)
			if all := b.ask("show", "route", "all", f.block6(self).String()); !strings.Contains(all, "BGP.local_pref: 100") ||
				!strings.Contains(all, "BGP.next_hop: "+f.addr6(self).String()+"\n") || !strings.Contains(all, "BGP.origin: IGP") {
				t.Errorf("BIRD has our IPv6 block as\n%s", all)
			}
			for _, name := range []string{"bird", "bird/6"} {
				wait(t, 5*time.Second, "one path received, accepted and advertised by "+name, func() bool {
					st := a.report().Sessions[name]
					return st.Received == 1 && st.Accepted == 1 && st.Advertised == 1
				})
			}
			for protocol, channel := range map[string]string{"mesh": "ipv4", "mesh6": "ipv6"} {
				all := b.ask("show", "protocols", "all", protocol)
				_, neighbor, _ := strings.Cut(all, "Neighbor capabilities")
				neighbor, _, _ = strings.Cut(neighbor, "Session:")
				if !strings.Contains(neighbor, "AF announced: "+channel+"\n") || !strings.Contains(neighbor, "AF supported: "+channel+"\n") {
					t.Errorf("%s: we offer BIRD\n%s\nwant %s alone, with graceful restart", protocol, neighbor, channel)
				}
			}

			m := f.monitor("bird")
			wait(t, 10*time.Second, "the monitor sees a change of ours", func() bool {
				f.ip("-n", f.ns("bird"), "-6", "route", "replace", "2001:db8::1/128", "dev", "eth0")
				f.ip("-n", f.ns("bird"), "-6", "route", "delete", "2001:db8::1/128")
				return slices.ContainsFunc(m.seen(), func(l string) bool { return strings.Contains(l, "2001:db8::1") })
			})
			a.kill()
			time.Sleep(outage) //nolint:forbidigo // how long a killed node is away
			a = f.start(f.spec(self))
			wait(t, 40*time.Second, "Manx is back", func() bool { return a.established("bird") && a.established("bird/6") && complete() })
			// BIRD ends its side of the restart with our End-of-RIB.
			wait(t, 20*time.Second, "BIRD has finished the restart", func() bool {
				all := b.ask("show", "protocols", "all", "mesh6")
				return strings.Contains(all, "Established") && !strings.Contains(all, "Neighbor graceful restart active") &&
					!strings.Contains(b.ask("show", "route", "all", f.block6(self).String()), "stale")
			})
			for _, line := range m.seen() {
				if strings.Contains(line, f.block6(self).String()) || strings.Contains(line, f.block(self).String()) {
					t.Fatalf("the kernel's route of our block changed: %q", line)
				}
			}
			// Control.
			without := f.spec(self)
			without.Blocks = []netip.Prefix{f.block(self)}
			a.set(without)
			wait(t, 10*time.Second, "the withdrawal", func() bool {
				return slices.ContainsFunc(m.seen(), func(l string) bool { return strings.Contains(l, "Deleted "+f.block6(self).String()) })
			})
			if !inKernel("-4", f.block(self), f.addr(self)) {
				t.Error("IPv4's block went with IPv6's")
			}
		})
	}
}

// What BIRD sends over IPv6 beyond its blocks is refused as it is over IPv4, and the
// rest is used.
func TestBirdSendsTooMuchIPv6(t *testing.T) {
	t.Parallel()
	f := newDualFabric(t, "a", "bird", "c")
	var static6 strings.Builder
	for _, r := range []string{
		f.block6("bird").String() + " blackhole",
		"fd10:244::277/128 blackhole", // borrowed
		"::/0 blackhole",
		f.block6("a").String() + " blackhole",
		"fd10:244::109/128 blackhole", // inside our block
		"fd10:96::/108 blackhole",
		"fd10:245::/122 blackhole",
		"fd10:244::/48 blackhole",
		"fd10:244::2000/115 blackhole",    // shorter than any block
		"fd10:244::a00/122 via fd77::200", // not a node
		"fd10:244::b00/122 via " + f.addr6("c").String(),
	} {
		fmt.Fprintf(&static6, "route %s;\n", r)
	}
	f.dualBird("bird", "a", fmt.Sprintf("route %s blackhole;", f.block("bird")), static6.String())
	a := f.start(f.spec("a"))
	want := []string{
		"10.244.2.0/26 via " + f.addr("bird").String(),
		"fd10:244::200/122 via " + f.addr6("bird").String(),
		"fd10:244::277/128 via " + f.addr6("bird").String(),
		"fd10:244::b00/122 via " + f.addr6("c").String(),
	}
	learned := func() (out []string) {
		for _, l := range a.report().Learned {
			out = append(out, fmt.Sprintf("%s via %s", l.Prefix, l.NextHops[0]))
		}
		return out
	}
	wait(t, 40*time.Second, "everything is received", func() bool {
		s := a.report().Sessions
		return s["bird/6"].Received == 11 && s["bird"].Received == 1
	})
	if got := learned(); !slices.Equal(got, want) {
		t.Errorf("learned %q, want %q", got, want)
	}
	// See TestBirdSendsTooMuch: what reaches bgp/rib shows that GoBGP's policy works.
	st := a.report()
	if x := st.Sessions["bird/6"]; x.State != bgp.Established || x.Accepted != 3 {
		t.Errorf("session %+v, want 3 paths accepted", x)
	}
	if len(st.Refused) != 1 || st.Refused[rib.RefusedOwn] != 1 {
		t.Errorf("refused behind GoBGP: %v, want 1 inside our own block", st.Refused)
	}

	// Rules that change are applied to what was received before.
	fewer := f.spec("a")
	fewer.Nodes = map[string]member{"a": f.nodes["a"], "bird": f.nodes["bird"]}
	a.set(fewer)
	wait(t, 10*time.Second, "paths via a removed node are gone", func() bool { return slices.Equal(learned(), want[:3]) })
	a.set(f.spec("a"))
	wait(t, 10*time.Second, "paths via an added node are used", func() bool { return slices.Equal(learned(), want) })
	for _, name := range []string{"bird", "bird/6"} {
		if x := a.report().Sessions[name]; x.Flaps != 0 {
			t.Errorf("new rules broke the session %s: %+v", name, x)
		}
	}
}
