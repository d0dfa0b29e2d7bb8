package preflight

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
)

// Answers per second and at once, to each kind: twice of what 1000 nodes ask for in a
// DefaultEvery is let through within a second.
const (
	answerRate  = 5000
	answerBurst = 1000
)

// responder answers requests.
type responder struct {
	allowed func(netip.Addr) bool
	send    func(p probe, dst netip.Addr) error
	bucket  bucket
}

func newResponder(allowed func(netip.Addr) bool, send func(p probe, dst netip.Addr) error) *responder {
	return &responder{allowed: allowed, send: send, bucket: bucket{rate: answerRate, burst: answerBurst, tokens: answerBurst}}
}

// answer sends the reply to a request; the next request is the repetition of one
// that could not be sent.
func (r *responder) answer(p probe, src netip.Addr) {
	if p.op == request && r.allowed(src) && r.bucket.take(time.Now()) {
		p.op = reply
		_ = r.send(p, src)
	}
}

// ipipTo sends probes of KindIPIP.
func ipipTo(conn *net.IPConn, self netip.Addr) func(probe, netip.Addr) error {
	return func(p probe, dst netip.Addr) error { return send(conn, ipipPayload(p, self, dst), dst) }
}

// tunnelTo sends probes of KindTunnel, answers too: an answer is an echo request that
// says it is one, because firewalls drop echo replies to nothing that they have seen.
func tunnelTo(conn *net.IPConn, self netip.Addr) func(probe, netip.Addr) error {
	return func(p probe, dst netip.Addr) error { return send(conn, tunnelPayload(p, self, dst), dst) }
}

// Answer answers the requests of KindIPIP and KindTunnel that nodes send to self, in
// protocol 4, until ctx ends. isNode is called for every request's source address,
// by several goroutines.
func Answer(ctx context.Context, self Target, isNode func(netip.Addr) bool) error {
	if !usable(self.Addr) {
		return fmt.Errorf("answer preflight: own address %s: want an IPv4 unicast address", self.Addr)
	}
	if err := answerAll(ctx, self.Addr, isNode); err != nil {
		return fmt.Errorf("answer preflight: %w", err)
	}
	return nil
}

func answerAll(ctx context.Context, self netip.Addr, isNode func(netip.Addr) bool) error {
	ipip, err := rawSocket(ctx, protoIPIP, self, ipipFilter)
	if err != nil {
		return err
	}
	defer ipip.Close()
	// What tunl0 has unpacked.
	icmp, err := rawSocket(ctx, protoICMP, self, echoFilter)
	if err != nil {
		return err
	}
	defer icmp.Close()
	tunnel, err := likeTunnel(ctx)
	if err != nil {
		return err
	}
	defer tunnel.Close()

	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { _, _ = ipip.Close(), icmp.Close() })() // ends the receivers
	inIPIP, inTunnel := newResponder(isNode, ipipTo(ipip, self)), newResponder(isNode, tunnelTo(tunnel, self))
	g.Go(func() error {
		return receive(ipip, func(b []byte, src netip.Addr) {
			if p, ok := parseIPIP(b, src, self); ok {
				inIPIP.answer(p, src)
			}
		})
	})
	g.Go(func() error {
		return receive(icmp, func(b []byte, src netip.Addr) {
			if p, ok := parseEcho(b); ok && p.check == CheckTunnel {
				inTunnel.answer(p, src)
			}
		})
	})
	return g.Wait()
}

// bucket limits what is done per second.
type bucket struct {
	rate, burst float64
	tokens      float64
	last        time.Time
}

func (b *bucket) take(now time.Time) bool {
	if !b.last.IsZero() {
		b.tokens = min(b.burst, b.tokens+b.rate*now.Sub(b.last).Seconds())
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
