package gobgp_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/rib"
)

// bird is BIRD 2 as another node of the mesh, configured as Calico does it.
type bird struct {
	t      *testing.T
	f      *fabric
	name   string
	dir    string
	static string // the body of its static protocol
	// static6 is that of IPv6's, in a fabric that has it.
	static6 string
}

func (f *fabric) bird(name, peer, static string) *bird {
	f.t.Helper()
	return f.dualBird(name, peer, static, "")
}

// dualBird is a BIRD that also peers over IPv6, in a fabric that has it.
func (f *fabric) dualBird(name, peer, static, static6 string) *bird {
	f.t.Helper()
	b := &bird{t: f.t, f: f, name: name, dir: f.t.TempDir(), static: static, static6: static6}
	b.configure(peer)
	return b.run()
}

// birdOf is a BIRD with that configuration.
func (f *fabric) birdOf(name, conf string) *bird {
	f.t.Helper()
	b := &bird{t: f.t, f: f, name: name, dir: f.t.TempDir()}
	b.write(conf)
	return b.run()
}

// run starts BIRD, until the test ends.
func (b *bird) run() *bird {
	f, name := b.f, b.name
	f.t.Helper()
	if _, err := exec.LookPath("bird"); err != nil {
		f.t.Fatalf("BIRD is missing: install the package bird2 (%v)", err)
	}
	cmd := exec.Command("ip", "netns", "exec", f.ns(name), "bird", "-f", "-c", b.path("conf"), "-s", b.path("ctl"), "-P", b.path("pid"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	wait(f.t, 10*time.Second, "BIRD's control socket", func() bool {
		_, err := os.Stat(b.path("ctl"))
		return err == nil
	})
	return b
}

func (b *bird) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bird) configure(peer string) {
	b.t.Helper()
	self, other := b.f.addr(b.name), b.f.addr(peer)
	passive := "off"
	if other.String() > self.String() {
		passive = "on"
	}
	conf := fmt.Sprintf(`router id %[1]s;
log stderr { fatal };
protocol device { }
protocol direct { ipv4; interface "eth0"; }
protocol static blocks { ipv4; %[3]s }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol bgp mesh {
	local %[1]s as %[5]d;
	neighbor %[2]s as %[5]d;
	source address %[1]s;
	multihop;
	passive %[4]s;
	connect delay time 1; connect retry time 2; error wait time 1, 2;
	graceful restart on;
	ipv4 { import all; export where source = RTS_STATIC; };
}
`, self, other, b.static, passive, clusterAS)
	if b.f.addr6(b.name).IsValid() {
		conf += b.mesh6(peer)
	}
	b.write(conf)
}

func (b *bird) write(conf string) {
	b.t.Helper()
	if err := os.WriteFile(b.path("conf"), []byte(conf), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// mesh6 is what is added for IPv6, as Calico's second BIRD has it.
func (b *bird) mesh6(peer string) string {
	self, other := b.f.addr6(b.name), b.f.addr6(peer)
	passive := "off"
	if other.String() > self.String() {
		passive = "on"
	}
	return fmt.Sprintf(`
protocol direct direct6 { ipv6; interface "eth0"; }
protocol static blocks6 { ipv6; %[3]s }
protocol kernel kernel6 { ipv6 { import none; export where source = RTS_BGP; }; }
protocol bgp mesh6 {
	local %[1]s as %[5]d;
	neighbor %[2]s as %[5]d;
	source address %[1]s;
	multihop;
	passive %[4]s;
	connect delay time 1; connect retry time 2; error wait time 1, 2;
	graceful restart on;
	ipv6 { import all; export where source = RTS_STATIC; };
}
`, self, other, b.static6, passive, clusterAS)
}

func (b *bird) ask(question ...string) string {
	b.t.Helper()
	out, err := exec.Command("birdc", append([]string{"-s", b.path("ctl")}, question...)...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("birdc %s: %v\n%s", strings.Join(question, " "), err, out)
	}
	return string(out)
}

// show is what BIRD has of a network, "" for nothing.
func (b *bird) show(p netip.Prefix) string {
	b.t.Helper()
	return b.ask("show", "route", "all", "where", "net", "=", p.String())
}

// monitor records every route change in a node's kernel.
type monitor struct {
	mu    sync.Mutex
	lines []string
}

func (f *fabric) monitor(name string) *monitor {
	f.t.Helper()
	cmd := exec.Command("ip", "-o", "-n", f.ns(name), "monitor", "route")
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	m := &monitor{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			m.mu.Lock()
			m.lines = append(m.lines, lines.Text())
			m.mu.Unlock()
		}
	}()
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	return m
}

func (m *monitor) seen() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines)
}

// BIRD as a node: each gets the other's block, a killed Manx leaves no trace in
// the other's kernel, and a real withdrawal does.
func TestBird(t *testing.T) {
	t.Parallel()
	// a < bird: BIRD dials. z > bird: Manx dials.
	for _, names := range [][]string{{"a", "bird"}, {"bird", "z"}} {
		self := names[0]
		if self == "bird" {
			self = names[1]
		}
		t.Run(self, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, names...)
			b := f.bird("bird", self, fmt.Sprintf("route %s blackhole;", f.block("bird")))
			a := f.start(f.spec(self))
			inKernel := func() bool {
				out, err := exec.Command("ip", "-n", f.ns("bird"), "route", "show", f.block(self).String()).Output()
				return err == nil && strings.Contains(string(out), "via "+f.addr(self).String())
			}
			wait(t, 30*time.Second, "both blocks are learned", func() bool {
				return inKernel() && a.has(f.block("bird"), f.addr("bird")) && a.report().Converged
			})
			if all := b.ask("show", "route", "all", f.block(self).String()); !strings.Contains(all, "BGP.local_pref: 100") ||
				!strings.Contains(all, "BGP.next_hop: "+f.addr(self).String()) || !strings.Contains(all, "BGP.origin: IGP") {
				t.Errorf("BIRD has our block as\n%s", all)
			}
			wait(t, 5*time.Second, "one path received, accepted and advertised", func() bool {
				st := a.report().Sessions["bird"]
				return st.Received == 1 && st.Accepted == 1 && st.Advertised == 1
			})

			m := f.monitor("bird")
			wait(t, 10*time.Second, "the monitor sees a change of ours", func() bool {
				f.ip("-n", f.ns("bird"), "route", "replace", "198.51.100.1/32", "dev", "eth0")
				f.ip("-n", f.ns("bird"), "route", "delete", "198.51.100.1/32")
				return len(m.seen()) > 0
			})
			for round := range 3 {
				a.kill()
				time.Sleep(outage) //nolint:forbidigo // how long a killed node is away
				a = f.start(f.spec(self))
				wait(t, 40*time.Second, "Manx is back", func() bool {
					return a.established("bird") && a.report().Converged && a.has(f.block("bird"), f.addr("bird"))
				})
				// BIRD ends its side of the restart with our End-of-RIB.
				wait(t, 20*time.Second, "BIRD has finished the restart", func() bool {
					all := b.ask("show", "protocols", "all", "mesh")
					return strings.Contains(all, "Established") && !strings.Contains(all, "Neighbor graceful restart active") &&
						!strings.Contains(b.ask("show", "route", "all", f.block(self).String()), "stale")
				})
				for _, line := range m.seen() {
					if strings.Contains(line, f.block(self).String()) {
						t.Fatalf("round %d: the kernel's route of our block changed: %q", round, line)
					}
				}
			}
			// Control.
			without := f.spec(self)
			without.Blocks = nil
			a.set(without)
			wait(t, 10*time.Second, "the withdrawal", func() bool {
				return slices.ContainsFunc(m.seen(), func(l string) bool { return strings.Contains(l, "Deleted "+f.block(self).String()) })
			})
		})
	}
}

// What BIRD sends beyond its blocks is refused, each with its reason, and the rest
// is used.
func TestBirdSendsTooMuch(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "bird", "c")
	var static strings.Builder
	for _, r := range []string{ // for a route without next hop BIRD sends its own address
		f.block("bird").String() + " blackhole",
		"10.244.2.77/32 blackhole", // borrowed
		"0.0.0.0/0 blackhole",
		f.block("a").String() + " blackhole",
		"10.244.1.9/32 blackhole", // inside our block
		"10.96.0.0/12 blackhole",
		"10.245.0.0/26 blackhole",
		"10.244.0.0/16 blackhole",
		"10.244.32.0/19 blackhole",          // shorter than any block
		"10.244.10.0/26 via 192.168.77.200", // not a node
		"10.244.11.0/26 via " + f.addr("c").String(),
	} {
		fmt.Fprintf(&static, "route %s;\n", r)
	}
	f.bird("bird", "a", static.String())
	a := f.start(f.spec("a"))
	want := []string{
		"10.244.2.0/26 via " + f.addr("bird").String(),
		"10.244.2.77/32 via " + f.addr("bird").String(),
		"10.244.11.0/26 via " + f.addr("c").String(),
	}
	learned := func() (out []string) {
		for _, l := range a.report().Learned {
			out = append(out, fmt.Sprintf("%s via %s", l.Prefix, l.NextHops[0]))
		}
		return out
	}
	wait(t, 30*time.Second, "everything is received", func() bool { return a.report().Sessions["bird"].Received == 11 })
	if got := learned(); !slices.Equal(got, want) {
		t.Errorf("learned %q, want %q", got, want)
	}
	// GoBGP's policy passes what lies in the pools and leads to nodes, that is also
	// the two prefixes of our own block. There our own path is better than BIRD's,
	// and bgp/rib refuses the address inside. More refusals here mean that GoBGP
	// lets everything through.
	st := a.report()
	if x := st.Sessions["bird"]; x.State != bgp.Established || x.Accepted != 3 {
		t.Errorf("session %+v, want 3 paths accepted", x)
	}
	if len(st.Refused) != 1 || st.Refused[rib.RefusedOwn] != 1 {
		t.Errorf("refused behind GoBGP: %v, want 1 inside our own block", st.Refused)
	}

	// Rules that change are applied to what was received before.
	fewer := f.spec("a")
	fewer.Nodes = map[string]member{"a": f.nodes["a"], "bird": f.nodes["bird"]}
	a.set(fewer)
	wait(t, 10*time.Second, "paths via a removed node are gone", func() bool { return slices.Equal(learned(), want[:2]) })
	a.set(f.spec("a"))
	wait(t, 10*time.Second, "paths via an added node are used", func() bool { return slices.Equal(learned(), want) })
	if x := a.report().Sessions["bird"]; x.Flaps != 0 {
		t.Errorf("new rules broke the session: %+v", x)
	}
}
