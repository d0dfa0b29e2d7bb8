package iface_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/manx-cni/manx/felix/calc"
	"github.com/manx-cni/manx/felix/iface"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestFindUplink(t *testing.T) {
	k := nltest.NewKernel()
	lo := k.AddLink(nl.Link{Name: "lo", MTU: 65536})
	eth1 := k.AddLink(nl.Link{Name: "eth1", MTU: 9000})
	eth0 := k.AddLink(nl.Link{Name: "eth0", MTU: 1500})
	k.AddAddr(lo.Index, pfx("127.0.0.1/8"))
	k.AddAddr(lo.Index, pfx("192.0.2.1/32")) // announced by the node's own router
	k.AddAddr(eth1.Index, pfx("10.0.0.5/8"))
	k.AddAddr(eth0.Index, pfx("192.0.2.1/24"))
	k.AddAddr(eth0.Index, pfx("192.0.2.77/24"))
	k.AddAddr(eth0.Index, pfx("172.16.3.4/16"))
	got, index, err := iface.FindUplink(k, netip.MustParseAddr("192.0.2.1"))
	if err != nil {
		t.Fatal(err)
	}
	want := calc.Uplink{Name: "eth0", MTU: 1500, Prefixes: []netip.Prefix{pfx("172.16.0.0/16"), pfx("192.0.2.0/24")}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || index != eth0.Index {
		t.Errorf("index %d (-want +got):\n%s", index, diff)
	}
	if got, _, err := iface.FindUplink(k, netip.MustParseAddr("192.0.2.2")); err != nil || got.Name != "" {
		t.Errorf("nobody's address: %+v %v", got, err)
	}
	// The IPv6 address is on another interface, whose IPv4 subnets are not its.
	k.AddAddr(eth1.Index, pfx("2001:db8::5/64"))
	k.AddAddr(eth1.Index, pfx("fe80::1/64"))
	k.AddAddr(eth0.Index, pfx("2001:db8:1::5/64"))
	got, index, err = iface.FindUplink(k, netip.MustParseAddr("2001:db8::5"))
	if err != nil {
		t.Fatal(err)
	}
	want = calc.Uplink{Name: "eth1", MTU: 9000, Prefixes: []netip.Prefix{pfx("2001:db8::/64"), pfx("fe80::/64")}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || index != eth1.Index {
		t.Errorf("IPv6: index %d (-want +got):\n%s", index, diff)
	}
	for _, op := range []nltest.Op{nltest.OpLinks, nltest.OpAddrs} {
		k.FailWith(func(o nltest.Op, _ string) error {
			if o == op {
				return errors.New("no")
			}
			return nil
		})
		if _, _, err := iface.FindUplink(k, netip.MustParseAddr("192.0.2.1")); err == nil {
			t.Errorf("%s failed and nothing was said", op)
		}
	}
}

// scripted is a kernel whose events the test sends.
type scripted struct {
	nl.Kernel
	events chan nl.Event
	fail   chan error
	starts atomic.Int32
}

func (s *scripted) Watch(ctx context.Context, event func(nl.Event)) error {
	s.starts.Add(1)
	event(nl.Event{Kind: nl.EventLost})
	for {
		select {
		case e := <-s.events:
			event(e)
		case err := <-s.fail:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &scripted{events: make(chan nl.Event), fail: make(chan error)}
		var wakes atomic.Int32
		w := iface.NewWatcher(k, slog.New(slog.DiscardHandler), func() { wakes.Add(1) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		synctest.Wait()
		if c := w.Take(); !c.Everything {
			t.Error("the first look is not at everything")
		}
		send := func(e nl.Event) { k.events <- e; synctest.Wait() }
		link := func(index int, name string, up, gone bool) {
			send(nl.Event{Kind: nl.EventLink, Gone: gone, Link: nl.Link{Index: index, Name: name, Up: up}})
		}
		link(7, "cali1", true, false)
		link(7, "cali1", false, false) // down for a moment
		link(7, "cali1", true, false)
		link(3, "eth0", true, false)
		link(9, "cali2", true, true)
		send(nl.Event{Kind: nl.EventAddr, Link: nl.Link{Index: 3}, Addr: netip.MustParseAddr("192.0.2.1")})
		send(nl.Event{Kind: nl.EventRoute})
		c := w.Take()
		pods := c.PodLinks()
		if len(pods) != 2 || !pods[0].Flushed || pods[0].Gone || !pods[0].Up || !pods[1].Gone {
			t.Errorf("pod links: %+v", pods)
		}
		if c.Links[3].Flushed || !c.Routes || c.Everything {
			t.Errorf("changes: %+v", c)
		}
		if !c.Touches(3, netip.Addr{}) || !c.Touches(0, netip.MustParseAddr("192.0.2.1")) || c.Touches(4, netip.MustParseAddr("192.0.2.9")) {
			t.Error("Touches is wrong")
		}
		if c := w.Take(); c.Everything || c.Routes || len(c.Links) != 0 {
			t.Errorf("taken twice: %+v", c)
		}
		fresh := func(up bool) {
			send(nl.Event{Kind: nl.EventLink, New: !up, Link: nl.Link{Index: 11, Name: "cali3", Up: up}})
		}
		fresh(false)
		link(11, "cali3", false, false) // gets its alias
		if c := w.Take(); c.Links[11].Flushed {
			t.Error("a new link that has not been up yet lost routes")
		}
		link(11, "cali3", false, false)
		fresh(true)
		if c := w.Take(); c.Links[11].Flushed {
			t.Error("a new link that came up for the first time lost routes: it may have got them since")
		}
		link(11, "cali3", false, false)
		if c := w.Take(); !c.Links[11].Flushed {
			t.Error("a link that was up went down and kept its routes")
		}
		v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		send(nl.Event{Kind: nl.EventAddr, Link: nl.Link{Index: 3}, Addr: v6})
		if c := w.Take(); c.Touches(3, v4) || !c.Touches(3, netip.MustParseAddr("2001:db8::2")) || !c.Touches(0, v6) || c.TouchesIndex(3) {
			t.Errorf("one family's address touches the other, or not its own: %+v", c)
		}
		send(nl.Event{Kind: nl.EventAddr, Link: nl.Link{Index: 3}, Addr: v4})
		if c := w.Take(); !c.Touches(3, v4) || c.Touches(3, v6) {
			t.Errorf("one family's address touches the other, or not its own: %+v", c)
		}
		for i := range 5000 { // a storm
			link(100+i, "veth", true, false)
		}
		if c := w.Take(); !c.Everything {
			t.Error("a storm is not everything")
		}
		before := wakes.Load()
		k.fail <- errors.New("broken")
		time.Sleep(2 * time.Second) //nolint:forbidigo // the bubble's clock
		synctest.Wait()
		if k.starts.Load() != 2 || !w.Take().Everything || wakes.Load() == before {
			t.Error("not started again, or not looked at everything then")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
