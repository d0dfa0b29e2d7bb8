package preflight

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
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
	answers *responder
	// resend packets that were answered: the peer's kernel or its agent answers
	// when the peer's own run has not begun to listen.
	resend bool
	// news is told of every first answer and first request.
	news chan struct{}

	mu     sync.Mutex
	nonces map[Check]uint64
	peers  map[netip.Addr]map[Check]*Result
}

func newEngine(ctx context.Context, cfg Config) (*engine, error) {
	e := &engine{
		cfg: cfg, news: make(chan struct{}, 1),
		nonces: map[Check]uint64{}, peers: map[netip.Addr]map[Check]*Result{},
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
		for _, c := range cfg.Kind.Checks() {
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
		if e.ipip, err = rawSocket(ctx, protoIPIP, self, nothing); err != nil {
			return err
		}
	}
	e.icmp, err = rawSocket(ctx, protoICMP, self, echoFilter)
	return err
}

func (e *engine) close() {
	for _, c := range []*net.IPConn{e.ipip, e.icmp} {
		if c != nil {
			_ = c.Close()
		}
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
		for _, c := range e.cfg.Kind.Checks() {
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
			e.failed(t.Addr, c, e.send(t.Addr, c))
		}
	}
}

func (e *engine) send(dst netip.Addr, c Check) error {
	p := probe{op: request, check: c, nonce: e.nonces[c], size: e.cfg.size(c)}
	switch c {
	case CheckMTU:
		return send(e.icmp, echo(p), dst)
	case CheckTunnel:
		return send(e.ipip, tunnelPayload(p, e.cfg.Self.Addr, dst), dst)
	}
	return send(e.ipip, ipipPayload(p, e.cfg.Self.Addr, dst), dst)
}

func (e *engine) gotIPIP(b []byte, src netip.Addr) {
	p, ok := parseIPIP(b, src, e.cfg.Self.Addr)
	if !ok {
		return
	}
	e.got(p, src)
	if p.op == request && e.answers != nil {
		e.answers.answer(p, src)
	}
}

func (e *engine) gotEcho(b []byte, src netip.Addr) {
	if p, ok := parseEcho(b); ok {
		e.got(p, src)
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
	if err == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peers[dst][c].Detail = reason(err)
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
		for _, c := range e.cfg.Kind.Checks() {
			r := e.result(t.Addr, c)
			if r.Answered {
				r.Detail = ""
			}
			out = append(out, r)
		}
	}
	return out
}
