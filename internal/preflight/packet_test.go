package preflight

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

var (
	alice = netip.MustParseAddr("192.0.2.1")
	bob   = netip.MustParseAddr("192.0.2.2")
)

func TestPacketsAreWhatTheyWere(t *testing.T) {
	for _, check := range []Check{CheckIPIP, CheckIPIPMTU} {
		for _, o := range []op{request, reply} {
			p := probe{op: o, check: check, nonce: 0x0123456789abcdef, size: 1501}
			b := ipipPayload(p, alice, bob)
			if len(b)+ipLen != p.size {
				t.Errorf("%s: %d bytes behind the outer header; want %d", check, len(b), p.size-ipLen)
			}
			if got, ok := parseIPIP(b, alice, bob); !ok || got != p {
				t.Errorf("%+v came back as %+v, %v", p, got, ok)
			}
		}
	}
	p := probe{op: request, check: CheckMTU, nonce: 7, size: 1499}
	b := echo(p)
	if got, ok := parseEcho(b); !ok || got != p {
		t.Errorf("%+v came back as %+v, %v", p, got, ok)
	}
	// A kernel answers by changing the type and correcting the sum.
	b[0] = echoReply
	binary.BigEndian.PutUint16(b[2:], 0)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	p.op = reply
	if got, ok := parseEcho(b); !ok || got != p {
		t.Errorf("the answer is %+v, %v; want %+v", got, ok, p)
	}
	p = probe{op: request, check: CheckTunnel, nonce: 8, size: smallSize}
	b = tunnelPayload(p, alice, bob)
	if got, ok := parseEcho(b[ipLen:]); !ok || got != p || checksum(b[:ipLen]) != 0 || b[9] != protoICMP {
		t.Errorf("inner packet %x: %+v, %v", b, got, ok)
	}
}

// A pod's packet for the fabric, and what connection tracking takes for its like.
func TestPodPacket(t *testing.T) {
	p := probe{op: request, check: CheckPod, nonce: 0x0123456789abcdef, size: 1500}
	b := podPacket(p, alice, bob)
	if got, ok := parseEcho(b[ipLen:]); !ok || got != p || len(b) != p.size {
		t.Errorf("%+v came back as %+v, %v, in %d bytes", p, got, ok, len(b))
	}
	if checksum(b[:ipLen]) != 0 || b[6] != 0x40 || b[8] != podTTL || b[9] != protoICMP {
		t.Errorf("header %x: want ICMP with DF", b[:ipLen])
	}
	o := opener(p)
	if _, ok := parseEcho(o); ok || checksum(o) != 0 || !bytes.Equal(o[4:6], b[ipLen+4:ipLen+6]) {
		t.Errorf("opener %x: want an ICMP echo request with the id of %x and nothing of ours", o, b[ipLen:ipLen+icmpLen])
	}
}

// Every byte of a probe that is not padding counts, and so does the length.
func TestDamagedPacketsAreNone(t *testing.T) {
	good := ipipPayload(probe{op: request, check: CheckIPIP, nonce: 1, size: smallSize}, alice, bob)
	for i := range ipLen + headerLen {
		if i >= ipLen+8 && i < ipLen+16 {
			continue // the nonce may be anything
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0x80
		if _, ok := parseIPIP(bad, alice, bob); ok {
			t.Errorf("accepted with byte %d changed", i)
		}
	}
	for n := range good {
		if _, ok := parseIPIP(good[:n], alice, bob); ok {
			t.Errorf("accepted with %d bytes of %d", n, len(good))
		}
	}
	if _, ok := parseIPIP(append(bytes.Clone(good), 0), alice, bob); ok {
		t.Error("accepted with one byte more")
	}
	if _, ok := parseIPIP(good, bob, bob); ok {
		t.Error("accepted from another than the inner source")
	}
	if _, ok := parseIPIP(good, alice, alice); ok {
		t.Error("accepted for another than the inner destination")
	}
	good = echo(probe{op: request, check: CheckMTU, nonce: 1, size: smallSize})
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x80
		if _, ok := parseEcho(bad); ok {
			t.Errorf("echo accepted with byte %d changed", i)
		}
	}
}

// What the parsers accept is what would have been sent.
func FuzzParse(f *testing.F) {
	f.Add(ipipPayload(probe{op: request, check: CheckIPIP, nonce: 1, size: smallSize}, alice, bob))
	f.Add(ipipPayload(probe{op: reply, check: CheckIPIPMTU, nonce: 2, size: 1500}, alice, bob))
	f.Add(echo(probe{op: request, check: CheckMTU, nonce: 3, size: 1500}))
	f.Add(tunnelPayload(probe{op: request, check: CheckTunnel, nonce: 4, size: smallSize}, alice, bob))
	f.Add(echo(probe{op: request, check: CheckPod, nonce: 5, size: 1500}))
	f.Add([]byte{0x45})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parseIPIP(b, alice, bob); ok {
			again, ok := parseIPIP(ipipPayload(p, alice, bob), alice, bob)
			if !ok || again != p || len(b)+ipLen != p.size {
				t.Errorf("%+v is %+v, %v when sent again", p, again, ok)
			}
		}
		if p, ok := parseEcho(b); ok && (p.size != len(b)+ipLen || p.check.heard() == (p.check == CheckTunnel)) {
			t.Errorf("echo of %d bytes is %+v", len(b), p)
		}
	})
}

func TestAnswersAreLimited(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := bucket{rate: 10, burst: 5, tokens: 5}
	count := func() (n int) {
		for range 100 {
			if b.take(now) {
				n++
			}
		}
		return n
	}
	if n := count(); n != 5 {
		t.Errorf("%d at once; want the burst of 5", n)
	}
	now = now.Add(300 * time.Millisecond)
	if n := count(); n != 3 {
		t.Errorf("%d after 300 ms at 10/s; want 3", n)
	}
	now = now.Add(time.Hour)
	if n := count(); n != 5 {
		t.Errorf("%d after an hour; want the burst of 5", n)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	ok := Config{
		Kind: KindIPIP, Self: Target{Name: "a", Addr: alice}, MTU: 1500,
		Targets: []Target{{Name: "a", Addr: alice}, {Name: "b", Addr: bob}},
	}
	c, err := ok.complete()
	if err != nil || len(c.Targets) != 1 || c.Targets[0].Name != "b" ||
		c.Every != DefaultEvery || c.Wait != DefaultWait || c.BGPPort != DefaultPort {
		t.Errorf("completed to %+v, %v", c, err)
	}
	for want, change := range map[string]func(*Config){
		`preflight "vxlan": want ipip, bgp or tunnel`: func(c *Config) { c.Kind = "vxlan" },
		"own address ::1: want an IPv4":               func(c *Config) { c.Self.Addr = netip.IPv6Loopback() },
		"own address invalid IP: want an IPv4":        func(c *Config) { c.Self.Addr = netip.Addr{} },
		"address of x (224.0.0.1)": func(c *Config) {
			c.Targets = []Target{{Name: "x", Addr: netip.MustParseAddr("224.0.0.1")}}
		},
		"b and x (192.0.2.2) have the same address": func(c *Config) { c.Targets = []Target{{Name: "b", Addr: bob}, {Name: "x", Addr: bob}} },
		"address of b (192.0.2.2): want": func(c *Config) {
			c.Targets = []Target{{Name: "b", Addr: bob, TunnelAddr: netip.IPv6Loopback()}}
		},
		"a and b (192.0.2.2) have the same address": func(c *Config) { c.Targets = []Target{{Name: "b", Addr: bob, TunnelAddr: alice}} },
		"uplink nosuch0":                   func(c *Config) { c.MTU, c.Uplink = 0, "nosuch0" },
		"MTU 60: want at least 84":         func(c *Config) { c.MTU = 60 },
		"no interface of this machine has": func(c *Config) { c.MTU = 0 },
		"want positive times":              func(c *Config) { c.Wait = -1 },
	} {
		c := ok
		change(&c)
		if _, err := c.complete(); err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("error %v; want %q", err, want)
		}
	}
}
