package nft_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/felix/state"
)

func pools6(cidrs ...string) state.Table { return rules.IPv6(filter(cidrs...)) }

func list6(t *testing.T) string {
	t.Helper()
	return nltest.Run(t, "nft", "-s", "-p", "list", "table", "ip6", "manx") + "\n"
}

// TestGolden6 compares what nft lists with what was meant, and reads it back as it
// was written.
func TestGolden6(t *testing.T) {
	allowed := filter("fd00:10:244::/48")
	allowed.AllowVXLANFromPods = true
	services := filter("fd00:10:244::/48")
	services.Services = []netip.Prefix{netip.MustParsePrefix("2001:db8:2::10/128"), netip.MustParsePrefix("fd96::/112")}
	for name, table := range map[string]state.Table{
		"services6": rules.IPv6(services),
		"bgp6":      rules.IPv6(bgp(filter("fd00:10:244::/48"), "2001:db8::1", "[2001:db8::2]:179")),
		"plain6":    pools6("2001:db8::/32", "2001:db9::/64", "fd00:10:244::/48", "fd01::7/128"),
		"allowed6":  rules.IPv6(allowed),
	} {
		d, r := newDriver6(t)
		d.SetTable(table)
		apply(t, d)
		got := list6(t)
		golden := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		d.QueueResync()
		if apply(t, d); r.runs != 1 {
			t.Errorf("%s: %d transactions, want 1", name, r.runs)
		}
		again, r := newDriver6(t)
		again.SetTable(table)
		if apply(t, again); r.runs != 0 {
			t.Errorf("%s: a restart ran %d transactions", name, r.runs)
		}
		nltest.Run(t, "nft", "flush", "ruleset")
	}
}

// TestRepair6 breaks the table and expects it back after a resync, and the one of
// the other family untouched.
func TestRepair6(t *testing.T) {
	d4, _ := newDriver(t)
	d4.SetTable(pools("10.244.0.0/16"))
	apply(t, d4)
	d, _ := newDriver6(t)
	d.SetTable(pools6("2001:db8::/32", "fd00:10:244::/48"))
	apply(t, d)
	want, four := list6(t), list(t)
	for _, damage := range []string{
		"delete table ip6 manx",
		"flush chain ip6 manx raw-prerouting",
		"delete element ip6 manx network-ip-pools { fd00:10:244::/48 }",
		"delete element ip6 manx on-link-sources { :: }",
		"add element ip6 manx on-link-sources { fec0::/10 }",
		"delete table ip6 manx; add table ip6 manx; add set ip6 manx network-ip-pools { type inet_service; }",
	} {
		nltest.Run(t, "nft", damage)
		d.QueueResync()
		apply(t, d)
		if diff := cmp.Diff(sorted(strings.ReplaceAll(want, "table ip6 manx", "table ip manx")),
			sorted(strings.ReplaceAll(list6(t), "table ip6 manx", "table ip manx"))); diff != "" {
			t.Errorf("%s: not repaired (-want +got):\n%s", damage, diff)
		}
	}
	if got := list(t); got != four {
		t.Errorf("the other family's table changed:\n%s", cmp.Diff(four, got))
	}
}

// TestAbsent: a table that is not wanted is removed once, one that is not there
// costs no transaction, and it comes back when it is wanted again.
func TestAbsent(t *testing.T) {
	there := func() bool { return strings.Contains(nltest.Run(t, "nft", "list", "tables"), "table ip6 manx") }
	nltest.Run(t, "nft", "add table ip6 other")
	d, r := newDriver6(t)
	d.SetAbsent()
	apply(t, d)
	if s := d.Status(); r.runs != 0 || s.Writes != 0 || len(d.Conditions()) != 0 {
		t.Errorf("%d transactions with nothing to do, %+v", r.runs, s)
	}
	d.SetTable(pools6("fd00:10:244::/48"))
	if apply(t, d); !there() {
		t.Fatal("no table")
	}
	again, r := newDriver6(t) // after a restart without IPv6
	again.SetAbsent()
	if got := again.Dropped(); len(got) != 0 {
		t.Errorf("counts of a table that is not wanted: %+v", got)
	}
	r.fail = func(what string) error {
		if what == "run" {
			return errors.New("no")
		}
		return nil
	}
	if err := again.Apply(t.Context()); err == nil || again.Status().LastError == "" {
		t.Error("the removal failed and nothing was said")
	}
	r.fail = nil
	again.QueueResync() // is no reason to leave it
	if apply(t, again); there() || again.Status().LastError != "" {
		t.Errorf("the table stays: %+v", again.Status())
	}
	// Gone for good: it is not looked for again.
	r.fail = errors.New
	again.QueueResync()
	apply(t, again)
	r.fail = nil
	again.SetTable(pools6("fd00:10:244::/48"))
	if apply(t, again); !there() {
		t.Error("no table although it is wanted again")
	}
	again.SetAbsent()
	if apply(t, again); there() {
		t.Error("the table stays")
	}
	d.SetAbsent()
	apply(t, d)
	if !strings.Contains(nltest.Run(t, "nft", "list", "tables"), "table ip6 other") {
		t.Error("somebody else's table was removed")
	}
	if got := d.Dropped(); len(got) != 3 {
		t.Errorf("what a table that is gone has dropped is forgotten: %+v", got)
	}

	// Where nft cannot be, there is nothing to remove and nothing to say.
	none, r := newDriver6(t)
	r.fail = errors.New
	none.SetAbsent()
	apply(t, none)
	if len(none.Conditions()) != 0 {
		t.Errorf("conditions: %+v", none.Conditions())
	}
	nltest.Run(t, "nft", "add table ip6 manx")
	r.fail = nil
	none.QueueResync() // it can, now
	if apply(t, none); there() {
		t.Error("the table stays")
	}
}

// TestForwardDropByFamily: each family reports its own chains, and one of them those
// of both.
func TestForwardDropByFamily(t *testing.T) {
	for _, f := range []string{"ip", "ip6", "inet"} {
		nltest.Run(t, "nft", "add table "+f+" filter; add chain "+f+" filter FORWARD { type filter hook forward priority 0; policy drop; }")
	}
	d4, _ := newDriver(t)
	d4.SetTable(pools("10.244.0.0/16"))
	apply(t, d4)
	d6, _ := newDriver6(t)
	d6.SetTable(pools6("fd00:10:244::/48"))
	apply(t, d6)
	for _, tc := range []struct {
		d    *nft.Driver
		want string
		says string
	}{
		{d4, "ip filter FORWARD, inet filter FORWARD", ": iptables -A FORWARD -i cali+"},
		{d6, "ip6 filter FORWARD", ": ip6tables -A FORWARD -i cali+"},
	} {
		var subjects []string
		for _, c := range tc.d.Conditions() {
			subjects = append(subjects, c.Subject)
			if !strings.Contains(c.Message, tc.says) {
				t.Errorf("%s: %s", c.Subject, c.Message)
			}
		}
		if got := strings.Join(subjects, ", "); got != tc.want {
			t.Errorf("reported %q, want %q", got, tc.want)
		}
	}
}
