package bgp

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestGlobalString(t *testing.T) {
	g := Global{AS: 64512, RouterID: netip.MustParseAddr("10.0.0.1"), ListenAddr: netip.MustParseAddr("10.0.0.1"), ListenPort: 179}
	if got := g.String(); got != "AS 64512, router id 10.0.0.1, 10.0.0.1, port 179" {
		t.Errorf("%q", got)
	}
	g.ListenAddr6 = netip.MustParseAddr("fd00::1")
	if got := g.String(); got != "AS 64512, router id 10.0.0.1, 10.0.0.1 and fd00::1, port 179" {
		t.Errorf("%q", got)
	}
}

func TestStatementAdmits(t *testing.T) {
	node, other := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.99")
	blocks := Statement{Prefix: netip.MustParsePrefix("10.244.0.0/16"), MinBits: 26, MaxBits: 26, NextHops: []netip.Addr{node}}
	for _, tc := range []struct {
		name   string
		s      Statement
		prefix string
		hop    netip.Addr
		want   bool
	}{
		{"a block via a node", blocks, "10.244.1.64/26", node, true},
		{"a block via somebody else", blocks, "10.244.1.64/26", other, false},
		{"a block via nothing", blocks, "10.244.1.64/26", netip.Addr{}, false},
		{"a longer prefix", blocks, "10.244.1.64/27", node, false},
		{"a shorter prefix", blocks, "10.244.0.0/25", node, false},
		{"a neighbouring pool", blocks, "10.245.1.64/26", node, false},
		{"default", blocks, "0.0.0.0/0", node, false},
		{"the other family", blocks, "fd00::/26", node, false},
		{"no next hops admit nothing", Statement{Prefix: blocks.Prefix, MinBits: 26, MaxBits: 26}, "10.244.1.64/26", node, false},
		{"shorter than the statement's own prefix, however lax its bounds",
			Statement{Prefix: blocks.Prefix, MaxBits: 32, NextHops: blocks.NextHops}, "10.244.0.0/8", node, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := NewEvaluator([]Statement{tc.s}).Judge(netip.MustParsePrefix(tc.prefix), Hop{Next: tc.hop}) == Accepted; got != tc.want {
				t.Errorf("Admits(%s via %s) = %t, want %t", tc.prefix, tc.hop, got, tc.want)
			}
		})
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	p := Peer{Name: "Mesh_10_0_0_2", Password: NewSecret("hunter2")}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("peer", "peer", p, "password", p.Password)
	js, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for how, shown := range map[string]string{
		"%v": fmt.Sprintf("%v", p), "%+v": fmt.Sprintf("%+v", p), "%#v": fmt.Sprintf("%#v", p), "%s": fmt.Sprintf("%s", p.Password),
		"json": string(js), "slog": log.String(),
	} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("%s shows the password: %s", how, shown)
		}
	}
	if p.Password.Reveal() != "hunter2" {
		t.Error("Reveal does not")
	}
}
