package endpoint

import (
	"maps"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// A pod's link that was set down while no agent ran is no endpoint and stays none by
// itself: it is named once it has been down for longer than an ADD may take.
func TestLinksThatStayDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := nltest.NewKernel()
		addrs := map[string][]netip.Addr{"net.c1": {netip.MustParseAddr("10.0.0.1")}, "net.c3": {netip.MustParseAddr("10.0.0.3")}}
		d := New(Config{Kernel: k, Addresses: func() map[string][]netip.Addr { return addrs }})
		k.AddLink(nl.Link{Name: "cali1", Alias: "manx:net.c1"})
		k.AddLink(nl.Link{Name: "cali2", Alias: "manx:net.c2"}) // without an address
		k.AddLink(nl.Link{Name: "cali3", Alias: "manx:net.c3", Up: true})
		k.AddLink(nl.Link{Name: "cali4"})
		for _, name := range []string{"cali1", "cali2", "cali4"} {
			k.ChangeLink(name, func(l *nl.Link) { l.Up = false })
		}
		look := func(want map[string]string) {
			t.Helper()
			if _, _, err := d.ReadBack(); err != nil {
				t.Fatal(err)
			}
			if got := d.Down(); !maps.Equal(got, want) {
				t.Errorf("down: %v, want %v", got, want)
			}
		}
		look(nil)
		time.Sleep(stuckAfter) //nolint:forbidigo // the bubble's clock
		look(map[string]string{"cali1": "manx:net.c1"})
		k.ChangeLink("cali1", func(l *nl.Link) { l.Alias = "manx:net.c3" }) // the next pod's
		look(nil)
		k.ChangeLink("cali1", func(l *nl.Link) { l.Up = true })
		time.Sleep(2 * stuckAfter) //nolint:forbidigo // the bubble's clock
		look(nil)
	})
}

// A pod's link that another program sets down while the agent runs stays an endpoint,
// also when everything is read back in that moment: it is set up again at once, and not
// only when it has been down for longer than an ADD may take.
func TestLinkSetDownStaysAnEndpoint(t *testing.T) {
	k := nltest.NewKernel()
	addrs := map[string][]netip.Addr{"net.c1": {netip.MustParseAddr("10.0.0.1")}}
	d := New(Config{Kernel: k, Addresses: func() map[string][]netip.Addr { return addrs }})
	k.AddLink(nl.Link{Name: "cali1", Alias: "manx:net.c1", Up: true})
	read := func(what string, want int) {
		t.Helper()
		if _, _, err := d.ReadBack(); err != nil {
			t.Fatal(err)
		}
		if got := len(d.All()); got != want {
			t.Errorf("%s: %d endpoints, want %d", what, got, want)
		}
	}
	read("a pod", 1)
	k.ChangeLink("cali1", func(l *nl.Link) { l.Up = false })
	read("its link was set down", 1)
	k.ChangeLink("cali1", func(l *nl.Link) { l.Alias = "manx:net.c2" })
	addrs["net.c2"] = addrs["net.c1"]
	read("the next pod's, which is not ready", 0)
	k.ChangeLink("cali1", func(l *nl.Link) { l.Alias = "manx:net.c1" })
	delete(addrs, "net.c1")
	read("a pod without an address", 0)
}
