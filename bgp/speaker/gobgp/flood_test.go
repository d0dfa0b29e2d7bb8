//go:build !race

package gobgp_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/test/hostile"
)

// A peer that is Established and below every limit floods: with changes, with requests, with
// attributes. The node's memory stays bounded, the flooder is shut out with the reason, and
// an innocent peer's session and routes do not suffer.
//
// Memory is measured, of which the race detector takes a multiple: these tests are a step of
// their own (test/suite, floods).

const (
	// floodTime is how long a flood lasts that is not ended. On two cores it is within 25 s.
	floodTime = 2 * time.Minute
	// floodRSS bounds the resident memory of the speaker's process while it is flooded, which
	// starts at 34 MB. Before there was a watch it grew by 40 to 80 MB a second.
	floodRSS = 160 << 20
)

// flood is a node under test with an innocent peer and one that floods.
type flood struct {
	*fabric
	node       *node
	good, evil *hostile.Peer
	flooder    string // the evil peer's session
}

func newFlood(t *testing.T, c hostile.Config, change func(*spec)) *flood {
	t.Helper()
	f := &flood{fabric: newDualFabric(t, "a", "good", "evil"), flooder: "evil"}
	s := f.spec("a")
	s.MaxPrefixes = 4096                                                                       // as for every node
	s.Blocks = append(s.Blocks, hostile.Blocks(netip.MustParseAddr("10.244.64.0"), 26, 20)...) // to ask for
	if change != nil {
		change(&s)
	}
	f.node = f.start(s)
	f.good = f.open("good", hostile.Config{})
	f.evil = f.open("evil", c)
	if len(c.Families) > 0 {
		f.flooder = "evil/6"
	}
	return f
}

// open brings a session up from a node of the fabric.
func (f *flood) open(from string, c hostile.Config) (p *hostile.Peer) {
	f.t.Helper()
	c.AS, c.ID = cmp.Or(c.AS, clusterAS), f.addr(from)
	to, session := f.addr("a"), from
	if slices.Contains(c.Families, gobgp.RF_IPv6_UC) {
		to, session = f.addr6("a"), from+"/6"
	}
	wait(f.t, 60*time.Second, "a session from "+from, func() bool {
		conn, err := f.dial(from, to)
		if err != nil {
			return false
		}
		p, err = hostile.Open(conn, c)
		if err != nil && !errors.Is(err, hostile.ErrTurnedAway) {
			f.t.Fatal(err)
		}
		return err == nil
	})
	f.t.Cleanup(func() { _ = p.Close() })
	wait(f.t, 10*time.Second, session+" is established", func() bool { return f.node.established(session) })
	return p
}

// memory reads a line of the node's /proc/PID/status, in bytes.
func (f *flood) memory(line string) int {
	f.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.node.cmd.Process.Pid))
	if err != nil {
		f.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), line+":")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		f.t.Fatalf("%s in\n%s: %v", line, raw, err)
	}
	return kb << 10
}

// until floods, has the innocent peer announce its block in the middle of it, and expects
// that the flooder is shut out for the reason.
func (f *flood) until(reason string, next func(int) [][]byte) {
	f.t.Helper()
	before, start := f.memory("VmRSS"), time.Now()
	ctx, cancel := context.WithTimeout(f.t.Context(), floodTime)
	defer cancel()
	flooded := make(chan struct{})
	var messages int
	go func() {
		defer close(flooded)
		messages, _ = f.evil.Flood(ctx, next)
	}()
	wait(f.t, 30*time.Second, "the flood is under way", func() bool { return f.evil.Sent() > 1000 })
	announced := time.Now()
	if err := f.good.Send(hostile.Announce(hostile.Attributes(f.addr("good")), f.block("good"))...); err != nil {
		f.t.Fatal(err)
	}
	wait(f.t, floodTime, "the innocent peer's route is believed", func() bool { return f.node.has(f.block("good"), f.addr("good")) })
	believed := time.Since(announced)
	wait(f.t, floodTime, "the flooder is shut out: "+reason, func() bool {
		s := f.node.report().Sessions[f.flooder]
		return s.OverLimit && s.State != bgp.Established && strings.Contains(s.LastError, reason)
	})
	<-flooded
	took := time.Since(start)
	wait(f.t, time.Minute, "nothing but the innocent peer's block is learned", func() bool { return len(f.node.report().Learned) == 1 })
	most := f.memory("VmHWM")
	f.t.Logf("%d messages of %d kB in %s; resident memory %d MB before, %d MB at most; the innocent peer's route was believed after %s; %s",
		messages, f.evil.Sent()>>10, took.Round(time.Millisecond), before>>20, most>>20, believed.Round(time.Millisecond),
		f.node.report().Sessions[f.flooder].LastError)
	if most > floodRSS {
		f.t.Errorf("%d MB resident, want %d MB at most", most>>20, floodRSS>>20)
	}
	if s := f.node.report().Sessions["good"]; s.State != bgp.Established || s.Flaps != 0 || s.OverLimit {
		f.t.Errorf("the innocent peer's session suffered: %+v", s)
	}
	if err, _ := f.good.Ended(); err != nil {
		f.t.Errorf("the innocent peer's session ended: %v", err)
	}
}

// churn announces and withdraws the same prefixes in turn.
func (f *flood) churn() func(int) [][]byte {
	prefixes := hostile.Blocks(netip.MustParseAddr("10.244.128.0"), 32, 3120)
	cycle := append(hostile.Announce(hostile.Attributes(f.addr("evil")), prefixes...), hostile.Withdraw(prefixes...)...)
	return func(int) [][]byte { return cycle }
}

func TestFloodOfChanges(t *testing.T) {
	f := newFlood(t, hostile.Config{}, nil)
	f.until("changes without end", f.churn())
}

// The flooder reads nothing of what it asks for.
func TestFloodOfRequests(t *testing.T) {
	for name, tc := range map[string]struct {
		families []gobgp.Family
		message  []byte
	}{
		"IPv4": {nil, hostile.Refresh()},
		"IPv6": {[]gobgp.Family{gobgp.RF_IPv6_UC}, hostile.Refresh6()},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFlood(t, hostile.Config{Deaf: true, Families: tc.families}, nil)
			many := slices.Repeat([][]byte{tc.message}, 1000)
			f.until("asked for all routes", func(int) [][]byte { return many })
		})
	}
}

// Extended messages cannot be switched off in GoBGP. Attributes that fill them cost no more
// than those of ordinary size.
func TestFloodOfAttributes(t *testing.T) {
	prefixes := hostile.Blocks(netip.MustParseAddr("10.244.128.0"), 32, 4000)
	for _, tc := range []struct {
		name       string
		size       int
		attributes func(hop netip.Addr, size, i int) []byte
	}{
		{"messages of 4 kB", hostile.MaxMessage, hostile.Large},
		{"extended messages", hostile.MaxExtendedMessage, hostile.Large},
		{"communities", hostile.MaxExtendedMessage, hostile.ManyCommunities},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFlood(t, hostile.Config{Extended: tc.size > hostile.MaxMessage}, nil)
			f.until("attributes beyond measure", func(i int) [][]byte {
				return hostile.Announce(tc.attributes(f.addr("evil"), tc.size, i), prefixes[i%len(prefixes)])
			})
		})
	}
}

// A peer that was shut out has another chance: while it is good it stays, when it floods again
// it is out again, for longer.
func TestFlooderComesBack(t *testing.T) {
	f := newFlood(t, hostile.Config{}, func(s *spec) { s.ShutPause = 2 * time.Second })
	f.until("shut out for 2s", f.churn())
	f.evil = f.open("evil", hostile.Config{})
	if err := f.evil.Send(hostile.Announce(hostile.Attributes(f.addr("evil")), f.block("evil"))...); err != nil {
		t.Fatal(err)
	}
	wait(t, 10*time.Second, "its route is believed", func() bool { return f.node.has(f.block("evil"), f.addr("evil")) })
	if s := f.node.report().Sessions[f.flooder]; s.ShutOuts != 1 || s.OverLimit {
		t.Errorf("%+v", s)
	}
	f.until("shut out for 4s", f.churn())
	if s := f.node.report().Sessions[f.flooder]; s.ShutOuts != 2 {
		t.Errorf("%+v", s)
	}
}

// A router with 100,000 routes, each in a message of its own with attributes of its own, is no
// flooder: not when it starts, not when it says all of them again, not when it comes back.
func TestManyRoutesAreNoFlood(t *testing.T) {
	const routes = 100_000
	f := &flood{fabric: newFabric(t, "a", "tor")}
	s := f.withRouter("a", "tor", bgp.PeerConfig{Filters: []string{"all"}})
	s.Filters = map[string]bgp.Filter{"all": {Import: []bgp.FilterRule{
		{Statement: bgp.Statement{Prefix: netip.MustParsePrefix("20.0.0.0/6"), MinBits: 26, MaxBits: 26}},
	}}}
	f.node = f.start(s)
	prefixes := hostile.Blocks(netip.MustParseAddr("20.0.0.0"), 26, routes)
	var all []byte
	for i, p := range prefixes {
		attributes := hostile.Attributes(f.addr("tor"), routerAS, 64000+uint32(i)%500, 1_000_000+uint32(i), 65002, 65003)
		all = append(all, hostile.Announce(append(attributes, hostile.Communities(20, i)...), p)[0]...)
	}
	again := slices.Concat(hostile.Announce(hostile.Attributes(f.addr("tor"), routerAS), prefixes...)...)
	for _, says := range [][][]byte{{all, again}, {again}} {
		p := f.open("tor", hostile.Config{AS: routerAS, RestartTime: 60})
		if err := p.Send(append(says, hostile.EndOfRIB())...); err != nil {
			t.Fatal(err)
		}
		wait(t, 150*time.Second, "all of it", func() bool {
			s := f.node.report().Sessions["tor"]
			return s.EndOfRIB && s.Received == routes && s.Accepted == routes && f.node.report().Many == routes
		})
		t.Logf("%d bytes a route; resident memory %d MB at most", len(all)/routes, f.memory("VmHWM")>>20)
		if s := f.node.report().Sessions["tor"]; s.ShutOuts != 0 || s.State != bgp.Established {
			t.Fatalf("%+v", s)
		}
		_ = p.Close()
		wait(t, 20*time.Second, "the loss is noticed", func() bool { return !f.node.established("tor") })
	}
}
