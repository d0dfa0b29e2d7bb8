package gobgp_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/advertise"
	"github.com/manx-cni/manx/bgp/peering"
	"github.com/manx-cni/manx/bgp/policy"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/bgp/speaker/gobgp"
)

// The speakers of these tests are processes of their own, as nodes are: GoBGP
// has state that one process shares, and only a process can be killed. The test
// binary is its own helper.
const (
	envSelf = "MANX_TEST_SPEAKER" // index of the node that this process is
	envNet  = "MANX_TEST_NET"     // what newCluster chose
)

func TestMain(m *testing.M) {
	if self := os.Getenv(envSelf); self != "" {
		helper(self)
		return
	}
	os.Exit(m.Run())
}

// cluster is a set of nodes on loopback addresses of their own.
type cluster struct {
	second, third byte
	port          uint16
}

// newCluster takes a random /24 of 127.0.0.0/8 and a port that is free there.
func newCluster(t *testing.T) cluster {
	t.Helper()
	c := cluster{second: byte(1 + rand.IntN(250)), third: byte(1 + rand.IntN(250))}
	l, err := net.Listen("tcp", c.addr(1).String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c.port = uint16(l.Addr().(*net.TCPAddr).Port)
	return c
}

func (c cluster) addr(node int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, c.second, c.third, byte(node)})
}

var testPool = netip.MustParsePrefix("10.244.0.0/16")

func block(node int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(node), 64}), 26)
}

// desired is node's part of a mesh of nodes, announcing blocks.
func (c cluster) desired(node int, nodes []int, blocks ...netip.Prefix) speaker.Desired {
	in := peering.Input{Self: fmt.Sprint(node), Mesh: true, AS: 64512, ListenPort: c.port, MaxPrefixes: 100}
	var others []netip.Addr
	for _, n := range nodes {
		in.Nodes = append(in.Nodes, peering.Node{Name: fmt.Sprint(n), IPv4: c.addr(n)})
		if n != node {
			others = append(others, c.addr(n))
		}
	}
	peers, _ := peering.Peers(in)
	return speaker.Desired{
		Global: bgp.Global{AS: 64512, RouterID: c.addr(node), ListenAddr: c.addr(node), ListenPort: c.port},
		Peers:  peers,
		Import: policy.Import([]policy.Pool{{Name: "p", CIDR: testPool, BlockBits: 26}}, others),
		Paths:  advertise.Paths(c.addr(node), blocks, []advertise.Pool{{CIDR: testPool}}),
		Own:    blocks,
	}
}

// helper runs one node until it is killed.
func helper(self string) {
	var node int
	var c cluster
	var nodes int
	if _, err := fmt.Sscanf(self, "%d", &node); err != nil {
		panic(err)
	}
	if _, err := fmt.Sscanf(os.Getenv(envNet), "%d %d %d %d", &c.second, &c.third, &c.port, &nodes); err != nil {
		panic(err)
	}
	r := speaker.New(speaker.Config{Speaker: gobgp.New(quiet()), Log: quiet()})
	r.SetDesired(c.desired(node, sequence(nodes), block(node)))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // never outlives a test that was killed by much
	defer cancel()
	go func() { // nor one that ended
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if err := r.Run(ctx); err != nil {
		panic(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func sequence(n int) (out []int) {
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

// spawn starts a node in its own process.
func (c cluster) spawn(t *testing.T, node, nodes int) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", envSelf, node),
		fmt.Sprintf("%s=%d %d %d %d", envNet, c.second, c.third, c.port, nodes))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			_ = cmd.Process.Kill() // SIGKILL
			_ = cmd.Wait()
			_ = stdin.Close()
		})
	}
	t.Cleanup(kill)
	return kill
}

// survivor is a node in this process, with every change of what it learned.
type survivor struct {
	*speaker.Reconciler
	mu      sync.Mutex
	history []string
}

func (c cluster) survive(t *testing.T, node int, nodes []int) *survivor {
	t.Helper()
	s := &survivor{Reconciler: speaker.New(speaker.Config{Speaker: gobgp.New(quiet()), Log: quiet()})}
	s.SetDesired(c.desired(node, nodes, block(node)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.Changed():
				learned, _ := s.Learned()
				s.mu.Lock()
				s.history = append(s.history, fmt.Sprint(learned))
				s.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-watched
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// changes returns the distinct values that Learned has had, in order.
func (s *survivor) changes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Compact(slices.Clone(s.history))
}

func (s *survivor) session(peer netip.Addr) bgp.Session {
	for _, x := range s.Status().Sessions {
		if x.Peer.Addr == peer {
			return x
		}
	}
	return bgp.Session{}
}

func (s *survivor) has(p netip.Prefix) bool {
	learned, _ := s.Learned()
	return slices.ContainsFunc(learned, func(l bgp.Learned) bool { return l.Prefix == p })
}

func wait(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A node that is killed and starts again is not noticed: its paths stay in the
// other's table without one change (RFC 4724). The control at the end shows that a
// withdrawal is.
func TestKilledSpeakerKeepsItsPaths(t *testing.T) {
	for _, survivorDials := range []bool{true, false} {
		t.Run(fmt.Sprintf("survivorDials=%t", survivorDials), func(t *testing.T) {
			c := newCluster(t)
			self, other := 2, 1
			if !survivorDials { // the textually higher address dials
				self, other = 1, 2
			}
			s := c.survive(t, self, []int{1, 2})
			kill := c.spawn(t, other, 2)
			wait(t, 30*time.Second, "the block is learned", func() bool { return s.has(block(other)) })
			before := s.changes()
			for round := range 3 {
				kill()
				wait(t, 10*time.Second, "the killed session is noticed", func() bool { return s.session(c.addr(other)).State != bgp.Established })
				kill = c.spawn(t, other, 2)
				wait(t, 30*time.Second, "the session is back", func() bool {
					x := s.session(c.addr(other))
					return x.State == bgp.Established && x.EndOfRIB
				})
				if got := s.changes(); !slices.Equal(got, before) {
					t.Fatalf("round %d: what was learned changed:\n%v\nwas\n%v", round, got, before)
				}
			}
			// Control: the same detector sees a real withdrawal.
			s.SetDesired(c.desired(self, []int{self}, block(self)))
			wait(t, 10*time.Second, "the removed peer's block is gone", func() bool { return !s.has(block(other)) })
			if slices.Equal(s.changes(), before) {
				t.Fatal("the control's withdrawal was not recorded: the test above proves nothing")
			}
		})
	}
}

// An absent node delays nobody: the others exchange their blocks at once, also
// right after a restart, when GoBGP would wait for everybody's End-of-RIB.
func TestAbsentPeerDelaysNobody(t *testing.T) {
	c := newCluster(t)
	s := c.survive(t, 1, []int{1, 2, 3}) // 3 never comes
	c.spawn(t, 2, 3)
	start := time.Now()
	wait(t, 20*time.Second, "the present node's block is learned", func() bool { return s.has(block(2)) })
	t.Logf("learned after %s", time.Since(start).Round(time.Millisecond))
}
