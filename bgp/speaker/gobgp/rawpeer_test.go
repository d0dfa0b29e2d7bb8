package gobgp_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/bgp"
)

// rawPeer is a BGP peer made by hand on a TCP connection: it says what the test
// wants, when the test wants it.
type rawPeer struct {
	t    *testing.T
	conn net.Conn
	old  bool           // it knows AS numbers of 2 octets only, RFC 6793
	open *gobgp.BGPOpen // what the speaker said of itself

	mu            sync.Mutex
	notifications []*gobgp.BGPNotification
	updates       []*gobgp.BGPUpdate
	ended         error
}

const rawRestartTime = 15 // seconds, as the raw peer asks for

// capabilities of an ordinary peer that can restart gracefully.
func capabilities(as uint32, restarting bool) []gobgp.ParameterCapabilityInterface {
	return capabilitiesOf(as, restarting, gobgp.RF_IPv4_UC)
}

func capabilitiesOf(as uint32, restarting bool, families ...gobgp.Family) []gobgp.ParameterCapabilityInterface {
	caps := []gobgp.ParameterCapabilityInterface{gobgp.NewCapFourOctetASNumber(as)}
	var kept []*gobgp.CapGracefulRestartTuple
	for _, f := range families {
		caps = append(caps, gobgp.NewCapMultiProtocol(f))
		kept = append(kept, gobgp.NewCapGracefulRestartTuple(f, restarting))
	}
	return append(caps, gobgp.NewCapGracefulRestart(restarting, true, rawRestartTime, kept))
}

// greet dials from one node to another until the other answers with its OPEN: a
// GoBGP that lost a session turns connections away for some seconds.
func (f *fabric) greet(from, to string) *rawPeer {
	f.t.Helper()
	return f.greetAt(from, to, f.addr(to))
}

func (f *fabric) greetAt(from, to string, addr netip.Addr) *rawPeer {
	f.t.Helper()
	p := &rawPeer{t: f.t}
	wait(f.t, 30*time.Second, fmt.Sprintf("OPEN from %s to %s", to, from), func() bool {
		conn, err := f.dial(from, addr)
		if err != nil {
			return false
		}
		_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		m, err := readMessage(conn, false)
		if err != nil {
			_ = conn.Close()
			return false
		}
		open, ok := m.Body.(*gobgp.BGPOpen)
		if !ok {
			f.t.Fatalf("first message of %s is %T, want OPEN", to, m.Body)
		}
		p.conn, p.open = conn, open
		return true
	})
	f.t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// peer brings a session up.
func (f *fabric) peer(from, to string, as uint32, caps []gobgp.ParameterCapabilityInterface) *rawPeer {
	f.t.Helper()
	return f.peerAt(from, to, f.addr(to), as, caps)
}

// peer6 brings a session over IPv6 up.
func (f *fabric) peer6(from, to string, as uint32, caps []gobgp.ParameterCapabilityInterface) *rawPeer {
	f.t.Helper()
	return f.peerAt(from, to, f.addr6(to), as, caps)
}

func (f *fabric) peerAt(from, to string, addr netip.Addr, as uint32, caps []gobgp.ParameterCapabilityInterface) *rawPeer {
	f.t.Helper()
	p := f.greetAt(from, to, addr)
	p.old = len(caps) == 0
	var params []gobgp.OptionParameterInterface
	if len(caps) > 0 {
		params = append(params, gobgp.NewOptionParameterCapability(caps))
	}
	open, err := gobgp.NewBGPOpenMessage(uint16(as), 90, f.addr(from), params)
	if err != nil {
		f.t.Fatal(err)
	}
	p.send(open)
	p.send(gobgp.NewBGPKeepAliveMessage())
	_ = p.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	m, err := readMessage(p.conn, p.old)
	if err != nil {
		f.t.Fatalf("KEEPALIVE of %s: %v", to, err)
	}
	if m.Header.Type != gobgp.BGP_MSG_KEEPALIVE {
		f.t.Fatalf("%s answers OPEN with %+v", to, m.Body)
	}
	_ = p.conn.SetReadDeadline(time.Time{})
	go p.read()
	return p
}

func readMessage(conn net.Conn, old bool) (*gobgp.BGPMessage, error) {
	head := make([]byte, gobgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	length := int(head[16])<<8 | int(head[17])
	if length < len(head) {
		return nil, fmt.Errorf("message of %d bytes", length)
	}
	body := make([]byte, length-len(head))
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	return gobgp.ParseBGPMessage(append(head, body...), &gobgp.MarshallingOption{Use2ByteAS: old})
}

func (p *rawPeer) read() {
	for {
		m, err := readMessage(p.conn, p.old)
		p.mu.Lock()
		if err != nil {
			p.ended = err
			p.mu.Unlock()
			return
		}
		switch body := m.Body.(type) {
		case *gobgp.BGPNotification:
			p.notifications = append(p.notifications, body)
		case *gobgp.BGPUpdate:
			p.updates = append(p.updates, body)
		}
		p.mu.Unlock()
	}
}

// heard reports what came since the session was up.
func (p *rawPeer) heard() (updates []*gobgp.BGPUpdate, notifications []*gobgp.BGPNotification, ended error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.updates), slices.Clone(p.notifications), p.ended
}

func (p *rawPeer) send(m *gobgp.BGPMessage) {
	p.t.Helper()
	b, err := m.Serialize()
	if err != nil {
		p.t.Fatal(err)
	}
	p.sendBytes(b)
}

func (p *rawPeer) sendBytes(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *rawPeer) announce(hop netip.Addr, prefixes ...netip.Prefix) {
	p.t.Helper()
	p.sendBytes(p.update(hop, 100, prefixes...))
}

// update is an UPDATE on the wire.
func (p *rawPeer) update(hop netip.Addr, localPref uint32, prefixes ...netip.Prefix) []byte {
	p.t.Helper()
	nh, err := gobgp.NewPathAttributeNextHop(hop)
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := gobgp.NewBGPUpdateMessage(nil, []gobgp.PathAttributeInterface{
		gobgp.NewPathAttributeOrigin(0), gobgp.NewPathAttributeAsPath(nil), nh, gobgp.NewPathAttributeLocalPref(localPref),
	}, p.nlri(prefixes)).Serialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *rawPeer) withdraw(prefixes ...netip.Prefix) {
	p.t.Helper()
	p.send(gobgp.NewBGPUpdateMessage(p.nlri(prefixes), nil, nil))
}

func (p *rawPeer) nlri(prefixes []netip.Prefix) (out []gobgp.PathNLRI) {
	for _, x := range prefixes {
		n, err := gobgp.NewIPAddrPrefix(x)
		if err != nil {
			p.t.Fatal(err)
		}
		out = append(out, gobgp.PathNLRI{NLRI: n})
	}
	return out
}

func (p *rawPeer) endOfRIB() { p.send(gobgp.NewEndOfRib(gobgp.RF_IPv4_UC)) }

// restartBits reads the Restart State and the Forwarding State bit of an OPEN.
func restartBits(t *testing.T, open *gobgp.BGPOpen) (restart, forwarding bool, seconds uint16) {
	t.Helper()
	for _, o := range open.OptParams {
		c, ok := o.(*gobgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, x := range c.Capability {
			if gr, ok := x.(*gobgp.CapGracefulRestart); ok {
				if len(gr.Tuples) != 1 || gr.Tuples[0].AFI != gobgp.AFI_IP || gr.Tuples[0].SAFI != gobgp.SAFI_UNICAST {
					t.Fatalf("families of the graceful restart capability: %+v, want IPv4 unicast", gr.Tuples)
				}
				return gr.Flags&0x08 != 0, gr.Tuples[0].Flags&0x80 != 0, gr.Time
			}
		}
	}
	t.Fatal("the OPEN has no graceful restart capability")
	return false, false, 0
}

// The OPEN says "restarting, still forwarding" to the peers of the start and not
// to those that join later; what is sent first is everything, then End-of-RIB;
// the end of the process says nothing.
func TestWhatAPeerHears(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "raw", "later")
	s := f.spec("a")
	s.Nodes = map[string]member{"a": f.nodes["a"], "raw": f.nodes["raw"]}
	s.Blocks = append(s.Blocks, netip.MustParsePrefix("10.244.1.64/26"), netip.MustParsePrefix("10.244.1.128/26"))
	a := f.start(s)
	p := f.peer("raw", "a", clusterAS, capabilities(clusterAS, false))
	if r, fw, secs := restartBits(t, p.open); !r || !fw || secs != uint16(bgp.RestartTime/time.Second) {
		t.Errorf("OPEN at the start: R=%t F=%t time %d, want both bits and %s", r, fw, secs, bgp.RestartTime)
	}
	wait(t, 10*time.Second, "End-of-RIB", func() bool {
		updates, _, _ := p.heard()
		return slices.ContainsFunc(updates, isEndOfRIB)
	})
	updates, _, _ := p.heard()
	var blocks int
	for _, u := range updates[:slices.IndexFunc(updates, isEndOfRIB)] {
		blocks += len(u.NLRI)
	}
	if blocks != len(s.Blocks) {
		t.Errorf("%d blocks before End-of-RIB, want %d", blocks, len(s.Blocks))
	}

	all := s
	all.Nodes = f.nodes
	a.set(all)
	later := f.peer("later", "a", clusterAS, capabilities(clusterAS, false))
	if r, _, _ := restartBits(t, later.open); r {
		t.Error("a peer that joined later was told that we restart")
	}

	a.stop()
	for _, x := range []*rawPeer{p, later} {
		wait(t, 5*time.Second, "the end of the session", func() bool { _, _, err := x.heard(); return err != nil })
		if _, notifications, _ := x.heard(); len(notifications) > 0 {
			t.Errorf("at exit the speaker said %+v: graceful restart is off", notifications[0])
		}
	}
}

func isEndOfRIB(u *gobgp.BGPUpdate) bool { ok, _ := u.IsEndOfRib(); return ok }

// A peer that dies again while it comes back has not withdrawn anything: its
// connection was accepted and broke before the session was up. GoBGP alone drops
// its paths then.
func TestPeerThatFailsToComeBack(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "raw")
	a := f.start(f.spec("a"))
	learned := func() bool { return a.has(f.block("raw"), f.addr("raw")) }
	p := f.peer("raw", "a", clusterAS, capabilities(clusterAS, false))
	p.announce(f.addr("raw"), f.block("raw"))
	p.endOfRIB()
	wait(t, 10*time.Second, "the block is learned", learned)
	before := a.learnedHistory()
	_ = p.conn.Close()
	wait(t, 10*time.Second, "the loss is noticed", func() bool { return a.report().Sessions["raw"].Restarting })
	_ = f.greet("raw", "a").conn.Close() // accepted, and dead before it answers

	// Back for good: an End-of-RIB without the block takes it away, and not before.
	p = f.peer("raw", "a", clusterAS, capabilities(clusterAS, true))
	wait(t, 10*time.Second, "the session is back", func() bool { return a.established("raw") })
	if got := a.learnedHistory(); !slices.Equal(got, before) {
		t.Fatalf("what was learned changed: %v, was %v", got, before)
	}
	p.endOfRIB()
	wait(t, 10*time.Second, "what was not sent again is gone", func() bool { return !learned() })

	// And once more, not to return: the peer's restart time bounds our patience.
	p.announce(f.addr("raw"), f.block("raw"))
	wait(t, 10*time.Second, "the block is learned again", learned)
	start := time.Now()
	_ = p.conn.Close()
	_ = f.greet("raw", "a").conn.Close()
	wait(t, (rawRestartTime+10)*time.Second, "the restart time ends", func() bool { return !learned() })
	if kept := time.Since(start); kept < (rawRestartTime-1)*time.Second {
		t.Errorf("kept for %s, want %d s", kept, rawRestartTime)
	}
}

// A withdrawal by a peer that is there, and a hard reset, take effect at once.
func TestWithdrawalsAreBelieved(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "raw")
	a := f.start(f.spec("a"))
	learned := func() bool { return a.has(f.block("raw"), f.addr("raw")) }
	p := f.peer("raw", "a", clusterAS, capabilities(clusterAS, false))
	p.announce(f.addr("raw"), f.block("raw"))
	wait(t, 10*time.Second, "the block is learned", learned)
	p.withdraw(f.block("raw"))
	wait(t, 5*time.Second, "the block is gone", func() bool { return !learned() })
	p.announce(f.addr("raw"), f.block("raw"))
	wait(t, 10*time.Second, "the block is learned", learned)
	p.send(gobgp.NewBGPNotificationMessage(gobgp.BGP_ERROR_CEASE, gobgp.BGP_ERROR_SUB_HARD_RESET, nil)) // RFC 8538 §3.1
	wait(t, 5*time.Second, "the block is gone with the peer", func() bool { return !learned() })
}

// A peer that sends more than its limit is shut out, is shown as such, and
// bothers nobody else.
func TestPrefixLimit(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "b", "raw")
	s := f.spec("a")
	s.MaxPrefixes = 10
	a := f.start(s)
	f.start(f.spec("b"))
	p := f.peer("raw", "a", clusterAS, capabilities(clusterAS, false))
	wait(t, 20*time.Second, "b's block is learned", func() bool { return a.has(f.block("b"), f.addr("b")) })
	var many []netip.Prefix
	for i := range 11 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, 100, byte(i)}), 32))
	}
	p.announce(f.addr("raw"), many...)
	wait(t, 10*time.Second, "the peer is shut out", func() bool {
		st := a.report().Sessions["raw"]
		return st.OverLimit && st.State != bgp.Established && st.LastError != ""
	})
	wait(t, 5*time.Second, "the peer has heard why, or that it is over", func() bool {
		_, notifications, err := p.heard()
		return len(notifications) > 0 || err != nil
	})
	_, notifications, _ := p.heard()
	if len(notifications) != 1 || notifications[0].ErrorCode != gobgp.BGP_ERROR_CEASE ||
		notifications[0].ErrorSubcode != gobgp.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED {
		t.Errorf("the peer heard %+v, want Cease, maximum number of prefixes reached", notifications)
	}
	if !a.established("b") || a.report().Sessions["b"].Flaps != 0 || !a.has(f.block("b"), f.addr("b")) {
		t.Errorf("another session suffered: %+v", a.report().Sessions["b"])
	}
	// The session's state is shown the moment it changes, the routes follow it.
	wait(t, 5*time.Second, "nothing but b's block is learned", func() bool { return len(a.report().Learned) == 1 })
}

// What a peer sends cannot end the process, nor a session with anybody else.
func TestHostileUpdates(t *testing.T) {
	t.Parallel()
	// A peer each, since GoBGP pauses for 5 s after a broken session.
	const twoByteAS = 65010
	origin, asPath := []byte{0x40, 1, 1, 0}, []byte{0x40, 2, 4, 2, 1, twoByteAS >> 8, twoByteAS & 0xff}
	nextHop := []byte{0x40, 3, 4, 192, 168, 77, 3}
	as4Path := []byte{0xc0, 17, 10, 2, 2, 0, 0, 0xfd, 0xf2, 0, 1, 0, 0}
	nlri := []byte{26, 10, 244, 3, 0}
	whole := slices.Concat(origin, asPath, nextHop)
	cases := []struct {
		name    string
		message []byte
	}{
		// CVE-2026-41643: from a peer without 4-octet AS numbers, AS_PATH last.
		{"AS4_PATH, ORIGIN, NEXT_HOP, AS_PATH", rawUpdate(slices.Concat(as4Path, origin, nextHop, asPath), nlri)},
		{"AS4_PATH twice", rawUpdate(slices.Concat(as4Path, as4Path, origin, nextHop, asPath), nlri)},
		{"empty AS_PATH segment", rawUpdate(slices.Concat(origin, []byte{0x40, 2, 2, 2, 0}, nextHop), nlri)},
		{"attribute longer than the message", rawUpdate(slices.Concat(origin, []byte{0x40, 2, 200, 2, 1}), nlri)},
		{"next hop of three bytes", rawUpdate(slices.Concat(origin, asPath, []byte{0x40, 3, 3, 1, 2, 3}), nlri)},
		{"no attributes", rawUpdate(nil, nlri)},
		{"prefix of 33 bits", rawUpdate(whole, []byte{33, 10, 244, 3, 0, 0})},
		{"truncated prefix", rawUpdate(whole, []byte{26, 10})},
		{"withdrawn length beyond the end", append(header(23, gobgp.BGP_MSG_UPDATE), 0xff, 0xff, 0, 0)},
		{"MP_REACH_NLRI of nothing", rawUpdate(slices.Concat(origin, asPath, []byte{0x80, 14, 0}), nil)},
		{"a header without a body", header(gobgp.BGP_HEADER_LENGTH, gobgp.BGP_MSG_UPDATE)},
		{"an unknown type", header(gobgp.BGP_HEADER_LENGTH, 9)},
		{"a length below the header's", header(3, gobgp.BGP_MSG_UPDATE)},
	}
	names := []string{"a", "b"}
	for i := range cases {
		names = append(names, fmt.Sprint("raw", i))
	}
	f := newFabric(t, names...)
	for _, n := range names[2:] {
		f.nodes[n] = member{Addr: f.addr(n), AS: twoByteAS}
	}
	a, b := f.start(f.spec("a")), f.start(f.spec("b"))
	wait(t, 20*time.Second, "b's block is learned", func() bool { return a.has(f.block("b"), f.addr("b")) })
	for i, tc := range cases {
		peer := names[2+i]
		p := f.peer(peer, "a", twoByteAS, nil) // no capabilities at all
		wait(t, 10*time.Second, "the session with "+peer, func() bool { return a.established(peer) })
		p.sendBytes(tc.message)
		// Either the speaker ends this session, or it took the message and what
		// follows still counts. Both show that it has read it.
		proof := netip.PrefixFrom(f.addr(peer), 32)
		_, _ = p.conn.Write(rawUpdate(whole, append([]byte{32}, proof.Addr().AsSlice()...)))
		wait(t, 10*time.Second, tc.name+": a reaction", func() bool {
			_, _, err := p.heard()
			return err != nil || a.dead() || a.report().Sessions[peer].Received > 0
		})
		if a.dead() {
			t.Fatalf("%s: the process died", tc.name)
		}
		switch _, notifications, err := p.heard(); {
		case len(notifications) > 0:
			t.Logf("%s: NOTIFICATION %d/%d", tc.name, notifications[0].ErrorCode, notifications[0].ErrorSubcode)
		case err != nil:
			t.Logf("%s: session ended: %v", tc.name, err)
		default:
			t.Logf("%s: taken, the session lives", tc.name)
		}
	}
	for _, pair := range []struct {
		n    *node
		peer string
	}{{a, "b"}, {b, "a"}} {
		if st := pair.n.report().Sessions[pair.peer]; pair.n.dead() || st.State != bgp.Established || st.Flaps != 0 {
			t.Errorf("%s's session with %s suffered: %+v", pair.n.name, pair.peer, st)
		}
	}
	if !a.has(f.block("b"), f.addr("b")) {
		t.Error("b's block was lost")
	}
}

func header(length int, kind byte) []byte {
	b := slices.Repeat([]byte{0xff}, 16)
	return append(b, byte(length>>8), byte(length), kind)
}

func rawUpdate(attributes, nlri []byte) []byte {
	withdrawn := []byte{0, 0} // none
	body := slices.Concat(withdrawn, []byte{byte(len(attributes) >> 8), byte(len(attributes))}, attributes, nlri)
	return append(header(gobgp.BGP_HEADER_LENGTH+len(body), gobgp.BGP_MSG_UPDATE), body...)
}
