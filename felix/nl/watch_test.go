package nl_test

import (
	"context"
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// TestWatchRPFilter: sysctl(8) changes no link, and is told all the same. Other settings
// are not, and neither is a value that stays.
func TestWatchRPFilter(t *testing.T) {
	h := open(t)
	l := uplink(t, h)
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=0", "net.ipv4.conf.all.rp_filter=0")
	t.Cleanup(func() { nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0") })
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan nl.Event, 1000), make(chan error, 1)
	go func() { done <- h.Watch(ctx, func(e nl.Event) { events <- e }) }()
	if e := <-events; e.Kind != nl.EventLost {
		t.Fatalf("first event: %+v", e)
	}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1")
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1", "net.ipv4.conf.eth0.proxy_arp=1", "net.ipv4.conf.default.rp_filter=0")
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=2")
	nltest.Run(t, "ip", "link", "set", "eth0", "alias", "the end")
	var indexes []int
	for e := range events {
		if e.Link.Alias == "the end" {
			break
		}
		if e.Kind == nl.EventRPFilter {
			indexes = append(indexes, e.Link.Index)
		}
	}
	if len(indexes) != 2 || indexes[0] != l.Index || indexes[1] != nl.AllLinks {
		t.Errorf("rp_filter of links %v, want %d and %d", indexes, l.Index, nl.AllLinks)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
