package nl_test

import (
	"context"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// Every setting is read from the place where the kernel has it, and written there; that
// forwarding and proxying were set is told.
func TestSettings(t *testing.T) {
	ns := nltest.NewNS(t)
	ns.Veth(t, "set0", "eth0")
	h, err := nl.Open(nl.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	read := func(name string) string { return strings.TrimSpace(nltest.Run(t, "sysctl", "-n", name)) }
	for _, s := range []nl.Setting{nl.Forwarding, nl.ProxyARP, nl.Forwarding6, nl.AcceptRA6, nl.ProxyNDP6, nl.DisableIPv6} {
		name := s.Sysctl("set0")
		for _, value := range []string{"1", "0", "1"} {
			nltest.Run(t, "sysctl", "-qw", name+"="+value)
			l, err := h.LinkByName("set0")
			if err != nil {
				t.Fatal(err)
			}
			if got, known := l.Settings.Get(s); !known || got != int(value[0]-'0') {
				t.Errorf("%s=%s is read as %d, known %v", name, value, got, known)
			}
		}
		l, err := h.LinkByName("set0")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.LinkSet(l, s, 0); err != nil || read(name) != "0" {
			t.Errorf("%s set to 0: %v, it is %s", name, err, read(name))
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan nl.Event, 1000), make(chan error, 1)
	go func() { done <- h.Watch(ctx, func(e nl.Event) { events <- e }) }()
	defer func() {
		cancel()
		<-done
	}()
	for e := range events {
		if e.Kind == nl.EventLost { // it listens
			break
		}
	}
	l, err := h.LinkByName("set0")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []nl.Setting{nl.Forwarding, nl.ProxyARP, nl.Forwarding6} {
		now, _ := l.Settings.Get(s)
		nltest.Run(t, "sysctl", "-qw", s.Sysctl("set0")+"="+string(rune('0'+1-now)))
		for e := range events {
			if e.Kind == nl.EventSetting && e.Link.Index == l.Index {
				break
			}
		}
	}
}
