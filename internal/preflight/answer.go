package preflight

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Answers per second and at once: twice of what 1000 nodes ask for in a
// DefaultEvery is let through within a second.
const (
	answerRate  = 5000
	answerBurst = 1000
)

// responder answers requests of protocol 4.
type responder struct {
	conn    *net.IPConn
	self    netip.Addr
	allowed func(netip.Addr) bool
	bucket  bucket
}

func newResponder(conn *net.IPConn, self netip.Addr, allowed func(netip.Addr) bool) *responder {
	return &responder{conn: conn, self: self, allowed: allowed, bucket: bucket{rate: answerRate, burst: answerBurst, tokens: answerBurst}}
}

// answer sends the reply to a request; the next request is the repetition of one
// that could not be sent.
func (r *responder) answer(p probe, src netip.Addr) {
	if r.allowed(src) && r.bucket.take(time.Now()) {
		p.op = reply
		_ = send(r.conn, ipipPayload(p, r.self, src), src)
	}
}

// Answer answers the requests of KindIPIP that nodes send to self, until ctx
// ends. isNode is called for every request's source address, by one goroutine.
func Answer(ctx context.Context, self Target, isNode func(netip.Addr) bool) error {
	if !usable(self.Addr) {
		return fmt.Errorf("answer preflight: own address %s: want an IPv4 unicast address", self.Addr)
	}
	conn, err := rawSocket(ctx, protoIPIP, self.Addr, ipipFilter)
	if err != nil {
		return fmt.Errorf("answer preflight: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer conn.Close()
	r := newResponder(conn, self.Addr, isNode)
	err = receive(conn, func(b []byte, src netip.Addr) {
		if p, ok := parseIPIP(b, src, self.Addr); ok && p.op == request {
			r.answer(p, src)
		}
	})
	if err != nil {
		return fmt.Errorf("answer preflight: %w", err)
	}
	return nil
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
