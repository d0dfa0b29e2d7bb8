package endpoint_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/manx-cni/manx/felix/endpoint"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

var errNo = errors.New("no")

func ep(iface, id string, addrs ...string) state.Endpoint {
	e := state.Endpoint{Iface: iface, Network: "k8s-pod-network", ContainerID: id}
	for _, a := range addrs {
		e.Addrs = append(e.Addrs, netip.MustParseAddr(a))
	}
	return e
}

// world is a fake kernel with an IPAM beside it.
type world struct {
	*nltest.Kernel
	ipam map[string][]netip.Addr
	d    *endpoint.Driver
}

func newWorld(t *testing.T) *world {
	w := &world{Kernel: nltest.NewKernel(), ipam: map[string][]netip.Addr{}}
	w.d = endpoint.New(endpoint.Config{
		Kernel: w, Addresses: func() map[string][]netip.Addr { return w.ipam },
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	return w
}

func (w *world) link(e state.Endpoint) nl.Link {
	return w.AddLink(nl.Link{Name: e.Iface, Alias: e.Alias()})
}

func (w *world) readBack(t *testing.T) (added, removed []state.Endpoint) {
	t.Helper()
	added, removed, err := w.d.ReadBack()
	if err != nil {
		t.Fatal(err)
	}
	return added, removed
}

func same(t *testing.T, what string, got []state.Endpoint, want ...state.Endpoint) {
	t.Helper()
	byIface := cmpopts.SortSlices(func(a, b state.Endpoint) bool { return a.Iface < b.Iface })
	if diff := cmp.Diff(want, got, byIface, cmpopts.EquateEmpty(), cmp.Comparer(state.Endpoint.Equal)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestReadBack joins links with IPAM as a restarted agent does.
func TestReadBack(t *testing.T) {
	w := newWorld(t)
	a, b, c := ep("cali1", "a", "10.0.0.1"), ep("cali2", "b", "10.0.0.2"), ep("cali3", "c")
	for _, e := range []state.Endpoint{a, b, c} {
		w.link(e)
		if len(e.Addrs) > 0 {
			w.ipam[e.Handle()] = e.Addrs
		}
	}
	w.AddLink(nl.Link{Name: "cali4"})                                      // nobody's
	w.AddLink(nl.Link{Name: "cali5", Alias: "wl-1"})                       // somebody else's
	w.AddLink(nl.Link{Name: "eth0", Alias: "manx:k8s-pod-network.a"})      // not a pod's name
	w.AddLink(nl.Link{Name: "cali6", Alias: "manx:broken"})                // half a mark is none
	w.AddLink(nl.Link{Name: "cali7", Alias: "manx:net.with.dots." + "id"}) // dots belong to the network
	w.ipam["net.with.dots.id"] = []netip.Addr{netip.MustParseAddr("10.0.0.7")}
	seven := ep("cali7", "id", "10.0.0.7")
	seven.Network = "net.with.dots"

	added, removed := w.readBack(t)
	same(t, "added", added, a, b, seven)
	same(t, "removed", removed)
	same(t, "all", w.d.All(), a, b, seven)
	if w.d.Foreign() != 3 {
		t.Errorf("foreign: %d, want 3", w.d.Foreign())
	}
	if conds := w.d.Conditions(); len(conds) != 1 || conds[0].Subject != "cali3" || conds[0].Kind != state.EndpointWithoutAddress {
		t.Errorf("conditions: %+v", conds)
	}
	if !w.d.InUse(a.Addrs[0]) || w.d.InUse(netip.MustParseAddr("10.0.0.9")) {
		t.Error("InUse is wrong")
	}

	delete(w.ipam, a.Handle()) // read back, so it answers to IPAM
	added, removed = w.readBack(t)
	same(t, "added", added)
	same(t, "removed", removed, a)

	w.FailWith(func(op nltest.Op, _ string) error { return errNo })
	if _, _, err := w.d.ReadBack(); !errors.Is(err, errNo) {
		t.Errorf("failed dump: %v", err)
	}
	same(t, "after a failed dump", w.d.All(), b, seven)
}

func TestAdd(t *testing.T) {
	w := newWorld(t)
	a := ep("cali1", "a", "10.0.0.1")
	for _, tc := range []struct {
		name string
		ep   state.Endpoint
		want string
	}{
		{"no such link", a, "does not exist"},
		{"not a pod interface", ep("eth0", "a", "10.0.0.1"), "want an interface cali"},
		{"no container", ep("cali1", "", "10.0.0.1"), "container ID"},
		{"no address", ep("cali1", "a"), "an address"},
	} {
		if _, _, err := w.d.Add(tc.ep); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	w.link(ep("cali1", "other"))
	if _, _, err := w.d.Add(a); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("another container's link: %v", err)
	}
	same(t, "after refusals", w.d.All())

	b := ep("cali2", "b", "10.0.0.2", "10.0.0.3")
	w.link(b)
	if _, obsolete, err := w.d.Add(b); err != nil || len(obsolete) != 0 {
		t.Fatalf("%v %v", obsolete, err)
	}
	// The agent vouches for it: IPAM's view of it does not matter.
	if added, removed := w.readBack(t); len(added)+len(removed) != 0 {
		t.Errorf("changed by reading back: %v %v", added, removed)
	}
	fewer := ep("cali2", "b", "10.0.0.3")
	_, obsolete, err := w.d.Add(fewer)
	if err != nil || len(obsolete) != 1 || obsolete[0].Dst.String() != "10.0.0.2/32" {
		t.Errorf("obsolete: %v %v", obsolete, err)
	}
}

// TestRemove: a removal names the container, and only ever hits that.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	a := ep("cali1", "a", "10.0.0.1")
	w.ipam[a.Handle()] = a.Addrs
	l := w.link(a)
	w.readBack(t)
	if _, known := w.d.Remove("cali1", ep("cali1", "older").Handle()); known {
		t.Error("removed by another container's ID")
	}
	same(t, "after a late removal", w.d.All(), a)
	if got, known := w.d.Remove("cali1", a.Handle()); !known || !got.Equal(a) {
		t.Errorf("remove: %+v %v", got, known)
	}
	// Its link is still there and IPAM still has the address: no way back in.
	if added, _ := w.readBack(t); len(added) != 0 {
		t.Errorf("came back: %v", added)
	}
	if _, again := w.d.LinkChanged(l, false, false); again {
		t.Error("an event about the closing link asks for reading back")
	}
	w.d.Closed(a.Handle())
	if added, _ := w.readBack(t); len(added) != 1 {
		t.Errorf("not seen after closing: %v", added)
	}
}

func TestLinkChanged(t *testing.T) {
	w := newWorld(t)
	a := ep("cali1", "a", "10.0.0.1")
	w.ipam[a.Handle()] = a.Addrs
	l := w.link(a)
	w.readBack(t)
	newer := l
	newer.Index = l.Index + 10
	for _, tc := range []struct {
		name          string
		link          nl.Link
		gone, flushed bool
		dropped       int
		readBack      bool
	}{
		{"nothing of interest", l, false, false, 0, false},
		{"was down", l, false, true, 1, false},
		{"deleted", l, true, true, 1, true},
		{"another link of that name", newer, false, false, 1, true},
		{"the former link of that name is deleted", newer, true, true, 0, false},
		{"a new pod's", nl.Link{Index: 99, Name: "cali9", Alias: "manx:n.x"}, false, false, 0, true},
		{"not ours", nl.Link{Index: 99, Name: "cali9"}, false, false, 0, false},
	} {
		dropped, readBack := w.d.LinkChanged(tc.link, tc.gone, tc.flushed)
		if len(dropped) != tc.dropped || readBack != tc.readBack {
			t.Errorf("%s: dropped %v, read back %v", tc.name, dropped, readBack)
		}
	}
}

// TestReaper deletes what is the removed container's, and nothing else.
func TestReaper(t *testing.T) {
	w := newWorld(t)
	gone, taken := ep("cali1", "a", "10.0.0.1"), ep("cali2", "old", "10.0.0.2")
	w.link(gone)
	w.link(ep("cali2", "new"))
	w.AddLink(nl.Link{Name: "cali3"})
	closed := make(chan string, 10)
	r := endpoint.NewReaper(endpoint.ReaperConfig{
		Kernel: w, InUse: func(a netip.Addr) bool { return a == taken.Addrs[0] },
		Closed: func(handle string) { closed <- handle }, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	for _, e := range []state.Endpoint{gone, taken, ep("cali3", "c"), ep("cali4", "never")} {
		r.Add(endpoint.Corpse{Iface: e.Iface, Handle: e.Handle(), Addrs: e.Addrs})
	}
	if r.Pending() != 4 {
		t.Errorf("pending: %d", r.Pending())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for range 4 {
		<-closed
	}
	nltest.Eventually(t, "nothing is pending", func() bool { return r.Pending() == 0 })
	if log := w.TakeLog(); len(log) != 1 || log[0] != "link deleted cali1" {
		t.Errorf("changes: %v", log)
	}
	if w.Calls(nltest.OpConnections) != 1 {
		t.Errorf("connections looked at %d times", w.Calls(nltest.OpConnections))
	}

	// A failure is reported and kept; ending the agent tries once more.
	stuck := ep("cali5", "s", "10.0.0.5")
	w.link(stuck)
	w.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinkDelete {
			return errNo
		}
		return nil
	})
	r.Add(endpoint.Corpse{Iface: stuck.Iface, Handle: stuck.Handle()})
	nltest.Eventually(t, "the failure is reported", func() bool { return len(r.Conditions()) == 1 })
	w.FailWith(nil)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(r.Conditions()) != 0 || r.Pending() != 0 {
		t.Errorf("left: %+v, %d pending", r.Conditions(), r.Pending())
	}
}

// TestBothFamilies: a pod's addresses of both families come, change and go together.
func TestBothFamilies(t *testing.T) {
	w := newWorld(t)
	const four, six = "10.0.0.1", "2001:db8::1"
	both := ep("cali1", "a", four, six)
	w.ipam[both.Handle()] = both.Addrs
	l := w.link(both)
	if added, _ := w.readBack(t); len(added) != 1 || len(added[0].Routes()) != 2 {
		t.Fatalf("read back: %+v", added)
	}
	for _, a := range both.Addrs {
		if !w.d.InUse(a) {
			t.Errorf("%s is not in use", a)
		}
	}
	if dropped, _ := w.d.LinkChanged(l, false, true); len(dropped) != 2 {
		t.Errorf("dropped with the link: %v", dropped)
	}
	if _, obsolete, err := w.d.Add(ep("cali1", "a", four)); err != nil || len(obsolete) != 1 || obsolete[0].Dst.String() != six+"/128" {
		t.Errorf("obsolete: %v %v", obsolete, err)
	}
	if w.d.InUse(both.Addrs[1]) {
		t.Error("an address that was given up is in use")
	}
	// IPv6 alone is an endpoint, too.
	alone := ep("cali2", "b", "2001:db8::2")
	w.ipam[alone.Handle()] = alone.Addrs
	w.link(alone)
	if added, _ := w.readBack(t); len(added) != 1 || !added[0].Equal(alone) {
		t.Errorf("read back: %+v", added)
	}
	if c := w.d.Conditions(); len(c) != 0 {
		t.Errorf("conditions: %+v", c)
	}
}
