package gobgp_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/desired"
	"github.com/manx-cni/manx/bgp/peering"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/bgp/speaker/gobgp"
	"github.com/manx-cni/manx/internal/testwait"
)

// The speakers of these tests are processes of their own in network namespaces of
// their own, as nodes are: GoBGP has state that one process shares, and only a
// process can be killed. The test binary is its own helper: it reads specs from
// its standard input, one JSON value each, and prints a report for every change.
const envHelper = "MANX_TEST_BGP_NODE"

func TestMain(m *testing.M) {
	if os.Getenv(envHelper) != "" {
		if err := helper(); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// spec is what a node knows of the cluster.
type spec struct {
	Self        string
	Nodes       map[string]member
	Blocks      []netip.Prefix // its own
	MaxPrefixes uint32
	Password    string          // of the mesh, and of all Peers
	Settle      time.Duration   // of the first spec
	ShutPause   time.Duration   // of the first spec
	Import      []bgp.Statement // in the place of those of the pools, when there are any
	MeshOff     bool
	Drain       bgp.Drain
	Peers       []bgp.PeerConfig
	Filters     map[string]bgp.Filter
	// Ranges of services, and what the node announces of them.
	Ranges, Services []netip.Prefix
	Advertisements   []bgp.Advertisement
	// ShowReceived puts what peers have sent into the reports; of the first spec.
	ShowReceived bool
	// Down are the peers behind a link that is down.
	Down []netip.Addr
}

type member struct {
	Addr  netip.Addr
	Addr6 netip.Addr // zero: none
	AS    uint32     // 0: the cluster's
	// Cluster makes it a route reflector.
	Cluster netip.Addr
}

// report is what a node has to say.
type report struct {
	Learned   []bgp.Learned
	Many      int // Learned, of which more than 1,000 are left out
	Converged bool
	Refused   map[string]int
	Sessions  map[string]session // by node, and node/6 for the one over IPv6
	Received  []string
	Error     string
}

type session struct {
	State                                 bgp.SessionState
	EndOfRIB, Restarting, OverLimit       bool
	Received, Accepted, Advertised, Flaps int
	LastError, Why                        string
	ShutOuts, Refused                     int
}

const clusterAS = 64512

var testPool, testPool6 = netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd10:244::/48")

func (s spec) desired() speaker.Desired {
	d, _ := s.compute()
	return d
}

// compute is what the speaker should be, and the BGPPeers that come to nothing.
func (s spec) compute() (speaker.Desired, []peering.Problem) {
	c := bgp.Cluster{
		Mesh: !s.MeshOff, AS: clusterAS, ListenPort: 179, MeshPassword: bgp.NewSecret(s.Password),
		Pools: []bgp.Pool{{Name: "p", CIDR: testPool, BlockBits: 26}, {Name: "p6", CIDR: testPool6, BlockBits: 122}},
		Peers: s.Peers, Filters: s.Filters, ServiceRanges: s.Ranges, Services: s.Services, Advertisements: s.Advertisements,
	}
	for name, n := range s.Nodes {
		c.Nodes = append(c.Nodes, bgp.Node{Name: name, IPv4: n.Addr, IPv6: n.Addr6, AS: n.AS, RouteReflectorClusterID: n.Cluster})
	}
	for i := range c.Peers {
		c.Peers[i].Password = c.MeshPassword
	}
	self := s.Nodes[s.Self]
	d, _, problems := desired.Compute(c, desired.Self{
		Name: s.Self, AS: self.AS, RouterID: self.Addr, IPv4: self.Addr, IPv6: self.Addr6, Drain: s.Drain,
	},
		desired.Addresses{Own: s.Blocks})
	for i := range d.Peers {
		if d.Peers[i].BGPPeer == "" {
			d.Peers[i].MaxPrefixes = s.MaxPrefixes
		}
	}
	if s.Import != nil {
		d.Import = s.Import
	}
	for _, a := range s.Down {
		if d.Unreachable == nil {
			d.Unreachable = map[netip.Addr]string{}
		}
		d.Unreachable[a] = "the link eth0 is down"
	}
	return d, problems
}

// helper runs one node until it is killed, told to stop, or alone.
func helper() error {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv(envHelper) == "verbose" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	}
	in := json.NewDecoder(os.Stdin)
	var s spec
	if err := in.Decode(&s); err != nil {
		return err
	}
	r := speaker.New(speaker.Config{Speaker: gobgp.New(log), Log: log, SettleTime: s.Settle, ShutPause: s.ShutPause})
	r.SetDesired(s.desired())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // never outlives its test by much
	defer cancel()
	go func() {
		for {
			var next spec // a fresh one: decoding into a map adds to it
			if in.Decode(&next) != nil {
				break
			}
			r.SetDesired(next.desired())
		}
		cancel() // the end of the input is the order to stop
	}()
	go reports(ctx, r, s.ShowReceived)
	return r.Run(ctx)
}

func reports(ctx context.Context, r *speaker.Reconciler, showReceived bool) {
	out := json.NewEncoder(os.Stdout)
	tick := time.NewTicker(50 * time.Millisecond)
	var last string
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.Changed():
		case <-tick.C:
		}
		st := r.Status()
		rep := report{Refused: st.Refused, Error: st.LastError, Sessions: map[string]session{}}
		rep.Learned, rep.Converged = r.Learned()
		if rep.Many = len(rep.Learned); rep.Many > 1000 { // to tell of all of them costs more than to learn them
			rep.Learned = nil
			tick.Reset(time.Second)
			<-tick.C
		}
		for _, s := range st.Sessions {
			rep.Sessions[sessionName(s.Peer)] = session{
				s.State, s.EndOfRIB, s.Restarting, s.OverLimit, s.Received, s.Accepted, s.Advertised, s.Flaps, s.LastError, s.Why(),
				s.ShutOuts, s.Refused,
			}
		}
		if showReceived {
			rep.Received = received(ctx, r)
		}
		if now := fmt.Sprint(rep); now != last {
			last = now
			if out.Encode(rep) != nil {
				return
			}
		}
	}
}

// received is what peers have sent, a line each.
func received(ctx context.Context, r *speaker.Reconciler) (out []string) {
	paths, more, err := r.Received(ctx, netip.Prefix{}, 10)
	for _, p := range paths {
		out = append(out, fmt.Sprintf("%s via %s from %s, path %v, communities %v: %s",
			p.Prefix, p.Next, p.Peer, p.ASPath, p.Communities, p.Unused))
	}
	if more > 0 || err != nil {
		out = append(out, fmt.Sprintf("%d more, %v", more, err))
	}
	return out
}

// sessionName is the node's name, or that of a router's BGPPeer.
func sessionName(p bgp.Peer) string {
	name := cmp.Or(p.Node, p.BGPPeer)
	if !p.Addr.Is4() {
		name += "/6"
	}
	return name
}

// node is a running helper.
type node struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	specs *json.Encoder
	stdin io.Closer
	ended chan struct{}

	mu      sync.Mutex
	latest  report
	reports []report
}

// start runs a node in the namespace of its name.
func (f *fabric) start(s spec) *node {
	f.t.Helper()
	n := &node{t: f.t, name: s.Self, ended: make(chan struct{})}
	n.cmd = exec.Command("ip", "netns", "exec", f.ns(s.Self), os.Args[0], "-test.run=^$")
	n.cmd.Env = append(os.Environ(), envHelper+"=quiet")
	n.cmd.Stderr = os.Stderr
	stdin, err := n.cmd.StdinPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	n.stdin, n.specs = stdin, json.NewEncoder(stdin)
	go n.read(stdout)
	f.t.Cleanup(n.kill)
	n.set(s)
	return n
}

func (n *node) read(stdout io.Reader) {
	defer close(n.ended)
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var r report
		if json.Unmarshal(line, &r) != nil {
			continue // what the testing package prints at exit
		}
		n.mu.Lock()
		n.latest = r
		n.reports = append(n.reports, r)
		n.mu.Unlock()
	}
}

// set gives the node new knowledge.
func (n *node) set(s spec) {
	n.t.Helper()
	if err := n.specs.Encode(s); err != nil {
		n.t.Fatalf("node %s: %v", n.name, err)
	}
}

// kill ends the node with SIGKILL.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	n.wait()
}

// stop lets the node end by itself, as an agent does that is told to.
func (n *node) stop() {
	_ = n.stdin.Close()
	n.wait()
}

func (n *node) wait() {
	<-n.ended
	_ = n.cmd.Wait()
}

// dead reports whether the process is gone by itself.
func (n *node) dead() bool {
	select {
	case <-n.ended:
		return true
	default:
		return false
	}
}

func (n *node) report() report {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.latest
}

func (n *node) has(prefix netip.Prefix, hop netip.Addr) bool {
	return slices.ContainsFunc(n.report().Learned, func(l bgp.Learned) bool {
		return l.Prefix == prefix && slices.Equal(l.NextHops, []netip.Addr{hop})
	})
}

func (n *node) established(peer string) bool {
	return n.report().Sessions[peer].State == bgp.Established
}

// learnedHistory is every distinct value that Learned had, in order.
func (n *node) learnedHistory() (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.reports {
		out = append(out, fmt.Sprint(r.Learned))
	}
	return slices.Compact(out)
}

func wait(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	testwait.Until(t, within, what, ok)
}
