package preflight

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/bgp/speaker/gobgp"
	"github.com/manx-cni/manx/felix/nl/nltest"
)

func TestBGP(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, f *fabric)
		silent  bool // no speaker listens on node2
		want    []string
		says    string
	}{
		"passes": {prepare: func(*testing.T, *fabric) {}},
		"port dropped one way": {
			prepare: func(t *testing.T, f *fabric) { f.nodes[2].rule(t, "ip saddr 172.30.0.11 tcp dport 179 drop") },
			want:    []string{"node1 node3 tcp"},
			says:    "TCP port 179 of node3 (172.30.0.13) cannot be reached from node1 (172.30.0.11), no answer: allow TCP port 179",
		},
		"no speaker listens": {
			prepare: func(*testing.T, *fabric) {},
			silent:  true,
			want:    []string{"node1 node2 tcp", "node3 node2 tcp"},
			says:    "connection refused: no BGP speaker listens there (manxctl status on node2)",
		},
		"path narrower than the uplinks": {
			prepare: func(t *testing.T, f *fabric) { nltest.Run(t, "ip", "link", "set", f.nodes[1].port, "mtu", "1400") },
			want:    []string{"node1 node2 mtu", "node2 node1 mtu", "node2 node3 mtu", "node3 node2 mtu"},
			says:    "ICMP echo requests of 1500 bytes, full size, from node1 (172.30.0.11) do not reach node2 (172.30.0.12)",
		},
		"full size lost one way": {
			prepare: func(t *testing.T, f *fabric) {
				f.nodes[0].rule(t, "ip saddr 172.30.0.12 icmp type echo-request ip length > 1400 drop")
			},
			want: []string{"node2 node1 mtu"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, 3)
			tc.prepare(t, f)
			for i, n := range f.nodes {
				if !tc.silent || i != 1 {
					n.start(t, task{Do: "listen"})
					nltest.Eventually(t, n.Name+" listens", func() bool {
						return strings.Contains(n.NS.Run(t, "cat", "/proc/net/tcp"), ":00B3 00000000:0000 0A")
					})
				}
			}
			f.expect(Config{Kind: KindBGP}, tc.want, tc.says)
		})
	}
}

// Sessions that are established do not notice.
func TestBGPLeavesSessionsAlone(t *testing.T) {
	t.Parallel()
	f := newFabric(t, 2)
	var speakers []*process
	for _, n := range f.nodes {
		speakers = append(speakers, n.start(t, task{Do: "speak", Config: Config{Targets: f.targets()}}))
	}
	nltest.Eventually(t, "the session is established", func() bool {
		return strings.Contains(speakers[0].said(t), "Established") && strings.Contains(speakers[1].said(t), "Established")
	})
	for range 3 {
		if m := f.run(Config{Kind: KindBGP, Wait: long}); !m.OK() {
			t.Fatalf("failures %q", failures(m))
		}
	}
	// The speakers say what happens to their sessions: nothing has.
	for i, s := range speakers {
		said := strings.Split(strings.TrimSpace(s.said(t)), "\n")
		if last := said[len(said)-1]; !strings.HasSuffix(last, "Established") {
			t.Errorf("%s: %q after the preflight", f.nodes[i].Name, said)
		}
	}
}

// speak is a BGP speaker that prints the states of its sessions.
func speak(ctx context.Context, cfg Config) error {
	s := gobgp.New(slog.New(slog.DiscardHandler))
	err := s.Start(ctx, bgp.Global{AS: 64512, RouterID: cfg.Self.Addr, ListenAddr: cfg.Self.Addr, ListenPort: DefaultPort}, speaker.Events{
		Path:     func(netip.Prefix, netip.Addr, netip.Addr) {},
		Session:  func(e speaker.SessionEvent) { fmt.Fprintln(os.Stderr, e.Peer, e.State) },
		EndOfRIB: func(netip.Addr) {},
	})
	if err != nil {
		return err
	}
	for _, t := range cfg.Targets {
		if t.Addr == cfg.Self.Addr {
			continue
		}
		p := bgp.Peer{
			Name: t.Name, Node: t.Name, Addr: t.Addr, Port: DefaultPort, AS: 64512, Local: cfg.Self.Addr, Passive: t.Addr.Less(cfg.Self.Addr),
		}
		if err := s.AddPeer(ctx, p, false); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}
