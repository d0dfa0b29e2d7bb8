package nft_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/knftables"

	"github.com/manx-cni/manx/felix/nft"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/family"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func filter(cidrs ...string) state.PacketFilter {
	var f state.PacketFilter
	for _, c := range cidrs {
		f.Masquerade.Inside = append(f.Masquerade.Inside, netip.MustParsePrefix(c))
	}
	f.Masquerade.Sources = f.Masquerade.Inside[:1]
	return f
}

func pools(cidrs ...string) state.Table { return rules.IPv4(filter(cidrs...)) }

// tunnel is a table that takes IPIP from the given nodes.
func tunnel(f state.PacketFilter, nodes ...string) state.Table {
	f.Tunnels = map[state.Encap]string{state.EncapIPIP: state.TunnelDevice}
	for _, n := range nodes {
		f.Nodes = append(f.Nodes, netip.MustParseAddr(n))
	}
	return rules.IPv4(f)
}

// runner is the real nft with failures on demand.
type runner struct {
	nft.Runner
	fail func(what string) error
	runs int
}

func (r *runner) check(what string) error {
	if r.fail != nil {
		return r.fail(what)
	}
	return nil
}

func (r *runner) Run(ctx context.Context, tx *knftables.Transaction) error {
	if err := r.check("run"); err != nil {
		return err
	}
	r.runs++
	return r.Runner.Run(ctx, tx)
}

func (r *runner) ListTable(ctx context.Context) ([]byte, error) {
	if err := r.check("list"); err != nil {
		return nil, err
	}
	return r.Runner.ListTable(ctx)
}

func (r *runner) ListRules(ctx context.Context) ([]byte, error) {
	if err := r.check("rules"); err != nil {
		return nil, err
	}
	return r.Runner.ListRules(ctx)
}

func newDriver(t *testing.T) (*nft.Driver, *runner) {
	t.Helper()
	t.Cleanup(func() { nltest.Run(t, "nft", "flush", "ruleset") })
	r := &runner{}
	d := nft.New(nft.Config{NewRunner: func(family.Family) (nft.Runner, error) {
		if err := r.check("new"); err != nil {
			return nil, err
		}
		var err error
		r.Runner, err = nft.NewRunner(family.IPv4)
		return r, err
	}})
	return d, r
}

func apply(t *testing.T, d *nft.Driver) {
	t.Helper()
	if err := d.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// newDriver6 is newDriver for the table of IPv6.
func newDriver6(t *testing.T) (*nft.Driver, *runner) {
	t.Helper()
	t.Cleanup(func() { nltest.Run(t, "nft", "flush", "ruleset") })
	r := &runner{}
	d := nft.New(nft.Config{Family: family.IPv6, NewRunner: func(f family.Family) (nft.Runner, error) {
		if err := r.check("new"); err != nil {
			return nil, err
		}
		var err error
		r.Runner, err = nft.NewRunner(f)
		return r, err
	}})
	return d, r
}

// list leaves out counts, and protocols' names, which depend on /etc/protocols.
func list(t *testing.T) string {
	t.Helper()
	return nltest.Run(t, "nft", "-s", "-p", "list", "table", "ip", "manx") + "\n"
}

// TestGolden compares what nft lists with what was meant.
func TestGolden(t *testing.T) {
	allowed := filter("10.244.0.0/16")
	allowed.AllowIPIPFromPods, allowed.AllowVXLANFromPods = true, true
	port := filter("10.244.0.0/16")
	port.VXLANPort = 8472
	services := filter("10.244.0.0/16")
	services.Services = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("198.51.100.7/32")}
	for name, table := range map[string]state.Table{
		"services": rules.IPv4(services),
		"bgp":      rules.IPv4(bgp(filter("10.244.0.0/16"), nodeAddr, "192.0.2.2:179", "203.0.113.1:1179")),
		"plain":    pools("10.244.0.0/16", "172.20.0.0/16", "192.0.2.7/32"),
		"tunnel":   tunnel(port, "192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.7"),
		"allowed":  tunnel(allowed),
	} {
		d, r := newDriver(t)
		d.SetTable(table)
		apply(t, d)
		got := list(t)
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
		// What nft makes of it is recognised as what was written.
		d.QueueResync()
		if apply(t, d); r.runs != 1 {
			t.Errorf("%s: %d transactions, want 1", name, r.runs)
		}
		nltest.Run(t, "nft", "flush", "ruleset")
	}
}

// TestWritesOnlyDifferences: an apply with nothing to do, and the first apply
// of a restarted agent, run no transaction; changed pools and nodes touch their sets only.
func TestWritesOnlyDifferences(t *testing.T) {
	d, r := newDriver(t)
	d.SetTable(tunnel(filter("10.244.0.0/16"), "192.0.2.1", "192.0.2.2"))
	apply(t, d)
	apply(t, d)
	d.QueueResync()
	apply(t, d)
	if r.runs != 1 {
		t.Errorf("%d transactions, want 1", r.runs)
	}
	again, r := newDriver(t)
	again.SetTable(tunnel(filter("10.244.0.0/16"), "192.0.2.1", "192.0.2.2"))
	apply(t, again)
	if r.runs != 0 {
		t.Errorf("a restart ran %d transactions", r.runs)
	}

	mon := nltest.Run(t, "nft", "-a", "list", "table", "ip", "manx")
	again.SetTable(tunnel(filter("10.244.0.0/15", "10.247.0.0/16"), "192.0.2.2", "192.0.2.3")) // overlaps what was there
	apply(t, again)
	handles := func(s string) string {
		var out []string
		for line := range strings.Lines(s) {
			if strings.Contains(line, "comment \"manx:") {
				out = append(out, line)
			}
		}
		return strings.Join(out, "")
	}
	now := nltest.Run(t, "nft", "-a", "list", "table", "ip", "manx")
	if diff := cmp.Diff(handles(mon), handles(now)); diff != "" {
		t.Errorf("rules were rewritten for changed sets:\n%s", diff)
	}
	if !strings.Contains(now, "10.244.0.0/15, 10.247.0.0/16") || !strings.Contains(now, "192.0.2.2, 192.0.2.3") {
		t.Errorf("pools or nodes not changed:\n%s", now)
	}
	if s := again.Status(); s.Pending != 0 || s.InKernel != 7 || s.Writes != 3 {
		t.Errorf("status: %+v", s)
	}
}

// TestRepair breaks the table in every way and expects it back after a resync.
func TestRepair(t *testing.T) {
	d, _ := newDriver(t)
	d.SetTable(tunnel(filter("10.244.0.0/16", "172.20.0.0/16"), "192.0.2.1", "192.0.2.2"))
	apply(t, d)
	want := list(t)
	for _, damage := range []string{
		"delete table ip manx",
		"flush table ip manx",
		"delete chain ip manx forward",
		"flush chain ip manx nat-postrouting",
		"flush chain ip manx nat-postrouting; delete set ip manx masq-ipam-pools",
		"delete element ip manx network-ip-pools { 172.20.0.0/16 }",
		"add element ip manx masq-ipam-pools { 198.51.100.1-198.51.100.9 }",
		"delete element ip manx all-hosts-net { 192.0.2.2 }",
		"flush chain ip manx input; delete set ip manx all-hosts-net",
		"add counter ip manx leftover; add rule ip manx input ip protocol 4 counter name leftover",
		"insert rule ip manx forward drop",
		"add rule ip manx raw-prerouting counter accept comment \"hello\"",
		"add chain ip manx leftover; add rule ip manx leftover drop",
		"add set ip manx leftover { type ipv4_addr; }",
		"add map ip manx leftover { type ipv4_addr : verdict; }",
		"add counter ip manx leftover",
		"delete chain ip manx forward; add chain ip manx forward { type filter hook input priority 7; policy drop; }",
		"add chain ip manx forward { policy drop; }",
		"delete table ip manx; add table ip manx; add set ip manx network-ip-pools { type inet_service; }",
	} {
		nltest.Run(t, "nft", damage)
		if list, err := nltest.TryRun("nft", "list", "table", "ip", "manx"); err == nil && list+"\n" == want {
			t.Fatalf("%s: did no damage", damage)
		}
		d.QueueResync()
		if err := d.Apply(t.Context()); err != nil {
			t.Errorf("%s: %v", damage, err)
			continue
		}
		if diff := cmp.Diff(sorted(want), sorted(list(t))); diff != "" {
			t.Errorf("%s: not repaired (-want +got):\n%s", damage, diff)
		}
	}
}

// sorted splits a listing into its objects, whose order says when they were made.
func sorted(s string) map[string]bool {
	out := map[string]bool{}
	for _, block := range strings.Split(s, "\n\n") {
		block = strings.TrimSuffix(strings.TrimSuffix(block, "}\n"), "\n")
		_, rest, found := strings.Cut(block, "table ip manx {\n")
		if found {
			block = rest
		}
		if i := strings.Index(block, "\tcomment \"Manx"); i >= 0 {
			_, block, _ = strings.Cut(block[i:], "\n")
		}
		out[strings.TrimSpace(block)] = true
	}
	return out
}

// TestOthersUntouched: nobody else's table changes, whatever ours does.
func TestOthersUntouched(t *testing.T) {
	d, _ := newDriver(t)
	nltest.Run(t, "nft", "add table ip manxx; add chain ip manxx forward { type filter hook forward priority 0; }; add table inet manx")
	before := nltest.Run(t, "nft", "-a", "list", "table", "ip", "manxx") + nltest.Run(t, "nft", "-a", "list", "table", "inet", "manx")
	d.SetTable(pools("10.244.0.0/16"))
	apply(t, d)
	if err := d.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Uninstall(t.Context()); err != nil {
		t.Errorf("second uninstall: %v", err)
	}
	after := nltest.Run(t, "nft", "-a", "list", "table", "ip", "manxx") + nltest.Run(t, "nft", "-a", "list", "table", "inet", "manx")
	if before != after {
		t.Errorf("changed:\n%s", cmp.Diff(before, after))
	}
	if out, err := nltest.TryRun("nft", "list", "table", "ip", "manx"); err == nil {
		t.Errorf("still there: %s", out)
	}
}

// TestFailures fails every call once and then lets it be.
func TestFailures(t *testing.T) {
	for _, what := range []string{"new", "list", "run"} {
		d, r := newDriver(t)
		r.fail = func(w string) error {
			if w == what {
				return fmt.Errorf("%s: no", w)
			}
			return nil
		}
		d.SetTable(pools("10.244.0.0/16"))
		if err := d.Apply(t.Context()); err == nil {
			t.Errorf("%s failed and nothing was said", what)
		}
		s := d.Status()
		if s.Errors != 1 || s.Pending == 0 || s.LastError == "" {
			t.Errorf("%s: status %+v", what, s)
		}
		unavailable := len(d.Conditions()) == 1 && d.Conditions()[0].Kind == state.NftablesUnavailable
		if unavailable != (what == "new") {
			t.Errorf("%s: conditions %+v", what, d.Conditions())
		}
		r.fail = nil
		apply(t, d)
		if s := d.Status(); s.Pending != 0 || s.LastError != "" || len(d.Conditions()) != 0 {
			t.Errorf("%s: afterwards %+v %+v", what, s, d.Conditions())
		}
		nltest.Run(t, "nft", "flush", "ruleset")
	}
}

// TestNoNft: without the program the reason is said, and what to do.
func TestNoNft(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := nft.NewRunner(family.IPv4); err == nil || !strings.Contains(err.Error(), "nft") {
		t.Errorf("no nft: %v", err)
	}
}
