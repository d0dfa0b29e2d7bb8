package preflight

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Sending is paced: atOnce packets, then pause. Full-size ones of 1500 bytes are
// 40 Mbit/s at most.
const (
	atOnce = 16
	pause  = 5 * time.Millisecond
)

// lingerRounds is how many times more packets are sent, and requests answered,
// after all is done: peers that started last have theirs still to hear.
const lingerRounds = 3

// engine is one run on one node.
type engine struct {
	cfg     Config
	ipip    *net.IPConn // nil where the kind needs none
	icmp    *net.IPConn
	pods    *podProber // nil where nobody is probed so, or the own address is not there
	answers *responder
	// resend packets that were answered: the peer's kernel or its agent answers
	// when the peer's own run has not begun to listen.
	resend bool
	// news is told of every first answer and first request.
	news chan struct{}

	// nodes are the peers' addresses by those of their tunnels.
	nodes map[netip.Addr]netip.Addr

	mu     sync.Mutex
	nonces map[Check]uint64
	peers  map[netip.Addr]map[Check]*Result
}

func newEngine(ctx context.Context, cfg Config) (*engine, error) {
	e := &engine{
		cfg: cfg, news: make(chan struct{}, 1),
		nonces: map[Check]uint64{}, peers: map[netip.Addr]map[Check]*Result{}, nodes: map[netip.Addr]netip.Addr{},
	}
	for _, c := range cfg.Kind.Checks() {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("preflight %s: random number: %w", cfg.Kind, err)
		}
		e.nonces[c] = binary.BigEndian.Uint64(b[:])
	}
	for _, t := range cfg.Targets {
		e.peers[t.Addr] = map[Check]*Result{}
		e.nodes[t.TunnelAddr] = t.Addr
		for _, c := range cfg.checks(t) {
			e.peers[t.Addr][c] = &Result{Peer: t, Check: c, Size: cfg.size(c)}
		}
	}
	if err := e.open(ctx); err != nil {
		e.close()
		return nil, fmt.Errorf("preflight %s: %w", cfg.Kind, err)
	}
	return e, nil
}

func (e *engine) open(ctx context.Context) (err error) {
	self := e.cfg.Self.Addr
	switch e.cfg.Kind {
	case KindIPIP:
		e.ipip, err = rawSocket(ctx, protoIPIP, self, ipipFilter)
		return err
	case KindTunnel:
		if e.ipip, err = likeTunnel(ctx); err != nil {
			return err
		}
	}
	if e.icmp, err = rawSocket(ctx, protoICMP, self, echoFilter); err != nil {
		return err
	}
	if slices.ContainsFunc(e.cfg.Targets, e.cfg.probesPod) {
		e.pods, err = newPodProber(ctx, e.cfg.Self.TunnelAddr, e.cfg.link)
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil // a failure of CheckPod, and of nothing else
	}
	return err
}

func (e *engine) close() {
	for _, c := range []*net.IPConn{e.ipip, e.icmp} {
		if c != nil {
			_ = c.Close()
		}
	}
	if e.pods != nil {
		e.pods.close()
	}
}

// run works until done says that it is over, for lingerRounds more when linger is
// set, or until ctx ends, which is no error.
func (e *engine) run(ctx context.Context, done func(Result) bool, linger bool) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if e.cfg.Kind == KindIPIP {
		g.Go(func() error { return receive(e.ipip, e.gotIPIP) })
	} else {
		g.Go(func() error { return receive(e.icmp, e.gotEcho) })
	}
	if e.cfg.Kind == KindBGP {
		g.Go(func() error { e.connectAll(ctx); return nil })
	}
	if e.pods != nil {
		g.Go(func() error { return receive(e.pods.in, e.gotPod) })
	}
	g.Go(func() error {
		defer e.close() // ends the receivers
		defer stop()    // ends the connections
		e.rounds(ctx, done, linger)
		return nil
	})
	return g.Wait()
}

func (e *engine) rounds(ctx context.Context, done func(Result) bool, linger bool) {
	tick := time.NewTicker(e.cfg.Every)
	defer tick.Stop()
	for left := lingerRounds; ; {
		e.sendAll(ctx)
		over := false
		for again := false; !again; {
			over = e.all(done)
			if over && (!linger || left == 0) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-e.news:
			case <-tick.C:
				again = true
			}
		}
		if over {
			left--
		}
	}
}

func (e *engine) all(done func(Result) bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.peers {
		for _, r := range p {
			if !done(*r) {
				return false
			}
		}
	}
	return true
}

// sendAll sends one packet per peer and check that needs one.
func (e *engine) sendAll(ctx context.Context) {
	sent := 0
	for _, t := range e.cfg.Targets {
		for _, c := range e.cfg.checks(t) {
			if c == CheckTCP || !e.resend && e.result(t.Addr, c).Answered {
				continue
			}
			if sent++; sent%atOnce == 0 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(pause):
				}
			}
			e.failed(t.Addr, c, e.send(t, c))
		}
	}
}

func (e *engine) send(t Target, c Check) error {
	p := probe{op: request, check: c, nonce: e.nonces[c], size: e.cfg.size(c)}
	switch c {
	case CheckMTU:
		return send(e.icmp, echo(p), t.Addr)
	case CheckPod:
		if e.pods == nil {
			return fmt.Errorf("no interface of this machine has its tunnel address %s", e.cfg.Self.TunnelAddr)
		}
		return e.pods.send(p, t)
	case CheckTunnel:
		return tunnelTo(e.ipip, e.cfg.Self.Addr)(p, t.Addr)
	}
	return ipipTo(e.ipip, e.cfg.Self.Addr)(p, t.Addr)
}

func (e *engine) gotIPIP(b []byte, src netip.Addr) {
	p, ok := parseIPIP(b, src, e.cfg.Self.Addr)
	if !ok {
		return
	}
	e.got(p, src)
	if e.answers != nil {
		e.answers.answer(p, src)
	}
}

func (e *engine) gotEcho(b []byte, src netip.Addr) {
	if p, ok := parseEcho(b); ok && p.check != CheckPod {
		e.got(p, src)
	}
}

func (e *engine) gotPod(b []byte, src netip.Addr) {
	if p, ok := parseEcho(b); ok && p.check == CheckPod {
		e.got(p, e.nodes[src])
	}
}

// got files what a probe from src proves; nothing, when it is no peer, or the
// probe is of another kind or run.
func (e *engine) got(p probe, src netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.peers[src][p.check]
	switch {
	case r == nil:
	case p.op == reply && p.nonce == e.nonces[p.check] && p.size == r.Size:
		r.Answered = true
	case p.op == request && p.check.heard():
		r.Heard = true
	}
	e.tell()
}

// answered files an answer; failed an error, if it is one.
func (e *engine) answered(dst netip.Addr, c Check) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peers[dst][c].Answered = true
	e.tell()
}

func (e *engine) failed(dst netip.Addr, c Check, err error) {
	detail := ""
	switch {
	case err != nil:
		detail = reason(err)
	case c != CheckPod:
		return // the kernel tells of a route that fails at every other packet only
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peers[dst][c].Detail = detail
}

func (e *engine) tell() {
	select {
	case e.news <- struct{}{}:
	default:
	}
}

func (e *engine) result(addr netip.Addr, c Check) Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	return *e.peers[addr][c]
}

// results in the order of the targets. Details of what worked in the end are left
// out.
func (e *engine) results() []Result {
	var out []Result
	for _, t := range e.cfg.Targets {
		for _, c := range e.cfg.checks(t) {
			r := e.result(t.Addr, c)
			if r.Answered {
				r.Detail = ""
			}
			out = append(out, r)
		}
	}
	return out
}
