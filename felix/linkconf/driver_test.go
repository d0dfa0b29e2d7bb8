package linkconf_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/felix/linkconf"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

// world is a driver over a kernel in memory.
type world struct {
	k     *nltest.Kernel
	d     *linkconf.Driver
	wants []linkconf.Want
	wakes []time.Duration
	asked func() []linkconf.Want // what the driver is told
}

func (w *world) look() {
	if err := w.d.Apply(context.Background()); err != nil {
		panic(err) // only a context's
	}
}

func newWorld() *world {
	w := &world{k: nltest.NewKernel(), wants: []linkconf.Want{{Name: "eth0", Values: []linkconf.Value{{Setting: nl.Forwarding, Want: 1}}}}}
	w.k.AddLink(nl.Link{Name: "eth0", MTU: 1500, Up: true, Settings: nl.Settings{}.With(nl.Forwarding, 1)})
	w.asked = func() []linkconf.Want { return w.wants }
	w.d = linkconf.New(linkconf.Config{
		Kernel: w.k,
		Wants:  func() []linkconf.Want { return w.asked() },
		Wake:   func(after time.Duration) { w.wakes = append(w.wakes, after) },
	})
	return w
}

func (w *world) pod(name, alias string) {
	w.k.AddLink(nl.Link{Name: name, Alias: alias, MTU: 1400, Up: true, Settings: nl.Settings{}.With(nl.ProxyARP, 1).With(nl.AcceptRA6, 0)})
	w.wants = append(w.wants, linkconf.Want{
		Name: name, Alias: alias,
		Values: []linkconf.Value{{Setting: nl.ProxyARP, Want: 1}, {Setting: nl.AcceptRA6, Want: 0}, {Setting: nl.DisableIPv6, Want: 1}},
	})
}

func (w *world) apply() []string {
	w.d.QueueResync()
	w.look()
	return w.k.TakeLog()
}

func (w *world) conditions() (out []string) {
	for _, c := range w.d.Conditions() {
		out = append(out, c.Subject+": "+c.Message)
	}
	return out
}

// A node that is as it should be costs no write, and what is not known of it neither: a
// kernel without IPv6 tells no disable_ipv6.
func TestNothingToDo(t *testing.T) {
	w := newWorld()
	w.pod("cali1", "manx:net.c1")
	if log := w.apply(); len(log) > 0 || len(w.conditions()) > 0 {
		t.Errorf("wrote %q, says %q", log, w.conditions())
	}
	if s := w.d.Status(); s.Desired != 5 || s.InKernel != 5 || s.Pending != 0 {
		t.Errorf("%+v", s)
	}
	calls := w.k.Calls(nltest.OpLinks)
	w.asked = func() []linkconf.Want { t.Error("asked for wants without a reason"); return nil }
	w.look()
	if w.k.Calls(nltest.OpLinks) != calls {
		t.Error("looked without a reason")
	}
}

// A program that sets it back for ever is answered ever more seldom, and reported; that
// lasts for a while after it has given up.
func TestFight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.pod("cali1", "manx:net.c1")
		w.apply()
		writes := 0
		const long = 30 * time.Minute
		for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(100 * time.Millisecond) { //nolint:forbidigo // the bubble's clock
			w.k.Set("eth0", nl.Forwarding, 0)
			w.d.Touch(2)
			w.d.Touch(1)
			w.look()
			writes += len(w.k.TakeLog())
		}
		if writes < 10 || writes > 40 {
			t.Errorf("%d writes in %s", writes, long)
		}
		if got := w.conditions(); len(got) != 1 ||
			!strings.Contains(got[0], "net.ipv4.conf.*.forwarding: of eth0 it was 0, and has been set to 1 again") ||
			!strings.Contains(got[0], "find out what sets it") {
			t.Errorf("says %q", got)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // the bubble's clock
		w.apply()
		time.Sleep(9 * time.Minute) //nolint:forbidigo // the bubble's clock
		if w.apply(); len(w.conditions()) != 1 {
			t.Errorf("nine minutes later it says %q", w.conditions())
		}
		time.Sleep(2 * time.Minute) //nolint:forbidigo // the bubble's clock
		if w.apply(); len(w.conditions()) != 0 {
			t.Errorf("after a while it still says %q", w.conditions())
		}
	})
}

// What cannot be set is said with what to do, counted, and stops nothing else.
func TestRefused(t *testing.T) {
	w := newWorld()
	w.pod("cali1", "manx:net.c1")
	w.pod("cali2", "manx:net.c2")
	w.apply()
	w.k.Set("cali1", nl.AcceptRA6, 1)
	w.k.Set("cali2", nl.AcceptRA6, 1)
	w.k.Set("eth0", nl.Forwarding, 0)
	w.k.FailWith(func(op nltest.Op, subject string) error {
		if op == nltest.OpLinkSet && strings.HasPrefix(subject, "cali") {
			return unix.EROFS
		}
		return nil
	})
	if log := w.apply(); len(log) != 1 || !strings.Contains(log[0], "net.ipv4.conf.eth0.forwarding 1") {
		t.Errorf("wrote %q", log)
	}
	got := strings.Join(w.conditions(), "\n")
	for _, part := range []string{
		"net.ipv6.conf.*.accept_ra: of cali1, cali2 it is 1, and cannot be set to 0: read-only file system",
		"sysctl -w net.ipv6.conf.cali1.accept_ra=0",
	} {
		if !strings.Contains(got, part) {
			t.Errorf("%q lacks %q", got, part)
		}
	}
	if s := w.d.Status(); s.Errors != 2 || s.Pending != 2 || s.Writes != 1 || s.LastError != "" {
		t.Errorf("%+v", s)
	}
	w.k.FailWith(nil)
	w.k.Set("cali1", nl.AcceptRA6, 0) // the user has
	w.k.Set("cali2", nl.AcceptRA6, 0)
	if w.apply(); strings.Contains(strings.Join(w.conditions(), "\n"), "accept_ra") {
		t.Errorf("says %q", w.conditions())
	}
}

// A link that has a pod's name and is not the pod's stays as it is: another ADD may be at
// work on it. One with the pod's mark is up and has the MTU it was made with.
func TestWhoseLink(t *testing.T) {
	w := newWorld()
	w.pod("cali1", "manx:net.c1")
	w.apply()
	w.k.ChangeLink("cali1", func(l *nl.Link) { l.MTU, l.Up = 900, false })
	if log := strings.Join(w.apply(), ", "); log != "link cali1 mtu 1400, link cali1 up" {
		t.Errorf("wrote %q", log)
	}
	w.k.ChangeLink("cali1", func(l *nl.Link) { l.Alias, l.MTU, l.Up = "manx:net.c2", 900, false })
	w.k.Set("cali1", nl.ProxyARP, 0)
	if log := w.apply(); len(log) > 0 {
		t.Errorf("wrote %q", log)
	}
	// Its successor is another link with another MTU.
	if err := w.k.LinkDelete(2); err != nil {
		t.Fatal(err)
	}
	w.wants = w.wants[:1]
	w.apply()
	w.k.AddLink(nl.Link{Name: "cali1", Alias: "manx:net.c2", MTU: 1300, Up: true})
	w.wants = append(w.wants, linkconf.Want{Name: "cali1", Alias: "manx:net.c2"})
	w.k.TakeLog()
	if log := w.apply(); len(log) > 0 || len(w.conditions()) > 0 {
		t.Errorf("wrote %q, says %q", log, w.conditions())
	}
}

// A hundred pods make one condition for each setting, and a dump that fails is made again.
func TestManyLinks(t *testing.T) {
	w := newWorld()
	for i := range 100 {
		w.pod(fmt.Sprintf("cali%d", i), fmt.Sprintf("manx:net.c%d", i))
	}
	w.apply()
	for i := range 100 {
		w.k.Set(fmt.Sprintf("cali%d", i), nl.ProxyARP, 0)
	}
	w.k.FailWith(func(op nltest.Op, _ string) error {
		if op == nltest.OpLinks {
			return errors.New("no")
		}
		return nil
	})
	if log := w.apply(); len(log) > 0 || len(w.wakes) != 1 {
		t.Errorf("wrote %q, wakes %v", log, w.wakes)
	}
	w.k.FailWith(nil)
	if log := w.apply(); len(log) != 100 {
		t.Errorf("%d writes", len(log))
	}
	if got := w.conditions(); len(got) != 1 || len(got[0]) > 300 || !strings.Contains(got[0], "and 97 more") {
		t.Errorf("says %q", got)
	}
}
