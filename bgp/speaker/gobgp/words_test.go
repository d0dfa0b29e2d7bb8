package gobgp

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/osrg/gobgp/v4/api"

	"github.com/manx-cni/manx/bgp"
)

var tor = bgp.Peer{Addr: netip.MustParseAddr("10.0.0.254"), AS: 65001, Port: 179, Local: netip.MustParseAddr("10.0.0.1")}

// TestWords: the words for what no router of the other tests does.
func TestWords(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{dialWords(tor, "dial tcp 10.0.0.1:0->10.0.0.254:179: connect: no route to host"), "10.0.0.254: no route to host"},
		{dialWords(tor, "dial tcp 10.0.0.1:0->10.0.0.254:179: i/o timeout"), "no connection yet: is TCP port 179 of 10.0.0.254 open?"},
		{dialWords(tor, "dial tcp 10.0.0.1:0->10.0.0.254:179: bind: cannot assign requested address"),
			"10.0.0.254: the address 10.0.0.1, which the session is to come from, is not on this node"},
		{dialWords(tor, "dial tcp: something else"), "10.0.0.254: something else"},
		{dialWords(tor, "odd"), "10.0.0.254: odd"},

		{sentWords(tor, 64512, 2, 6), "10.0.0.254 asks for a hold time below 3 seconds"},
		{sentWords(tor, 64512, 4, 0), holdExpired},
		{sentWords(tor, 64512, 3, 1), "10.0.0.254 sent what we cannot take: "},
		{receivedWords(tor, 64512, 2, 2, ""), "10.0.0.254 refuses our OPEN: does it expect us to be of AS 64512?"},
		{receivedWords(tor, 64512, 4, 0, ""), "10.0.0.254 ended the session: it heard nothing from us"},
		{receivedWords(tor, 64512, 6, 1, ""), "10.0.0.254 ended the session: we announce more prefixes than it allows"},
		{receivedWords(tor, 64512, 6, 4, "again"), `(NOTIFICATION 6/4) ("again")`},

		{lostWords(tor, 64512, api.PeerState_DISCONNECT_REASON_BAD_PEER_AS, ""), "AS mismatch: we expect 65001"},
		{lostWords(tor, 64512, api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED, ""), holdExpired},
		{lostWords(tor, 64512, api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART, ""), "the connection with 10.0.0.254 broke"},
		{lostWords(tor, 64512, api.PeerState_DISCONNECT_REASON_READ_FAILED, ""), "10.0.0.254 closed the connection"},
		{lostWords(tor, 64512, api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED, ""), "did not come back in its restart time"},
		{lostWords(tor, 64512, api.PeerState_DISCONNECT_REASON_NOTIFICATION_RECEIVED, "notification-received x"), "notification-received x"},
	} {
		if !strings.Contains(tc.got, tc.want) {
			t.Errorf("%q, want %q", tc.got, tc.want)
		}
	}
}

// TestHeard: a peer's records are looked at down to Debug while its session is not up, and
// what is logged stays what the log's own level says.
func TestHeard(t *testing.T) {
	var logged strings.Builder
	n := &notes{}
	var failed []string
	n.begin(64512, func(_ netip.Addr, reason string) { failed = append(failed, reason) })
	n.add(tor)
	inner := slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelInfo})
	log := slog.New(heard{inner, n, nil})
	peer := log.With(slog.String("Topic", "Peer"), slog.String("Key", "10.0.0.254"))
	ctx := context.Background()
	for _, tc := range []struct {
		log   *slog.Logger
		level slog.Level
		want  bool
	}{
		{log, slog.LevelDebug, false}, {log, slog.LevelInfo, false}, {log, slog.LevelError, true},
		{peer, slog.LevelDebug, true}, {peer, slog.LevelInfo, true},
	} {
		if got := tc.log.Enabled(ctx, tc.level); got != tc.want {
			t.Errorf("level %s is looked at: %t, want %t", tc.level, got, tc.want)
		}
	}
	peer.Debug("failed to connect", slog.String("Error", "dial tcp: connect: connection refused"))
	if len(failed) != 1 || failed[0] != "10.0.0.254: connection refused" || logged.Len() > 0 {
		t.Errorf("failed %q, logged %q", failed, &logged)
	}
	peer.Error("something")
	if !strings.Contains(logged.String(), "level=INFO msg=something") && !strings.Contains(logged.String(), "level=WARN msg=something") {
		t.Errorf("logged %q", &logged)
	}
	// The failed attempt explains no later event; what comes just before one does, and an
	// established session ends it.
	if got := n.settle(bgp.Idle, tor.Addr, api.PeerState_DISCONNECT_REASON_READ_FAILED, ""); got != "10.0.0.254 closed the connection" {
		t.Errorf("an event: %q", got)
	}
	peer.Warn("hold timer expired")
	peer.Info("sent notification", slog.Int("Code", 4), slog.Int("Subcode", 0))
	if got := n.settle(bgp.Idle, tor.Addr, api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART, ""); got != holdExpired {
		t.Errorf("a lost session: %q", got)
	}
	if got := n.settle(bgp.Established, tor.Addr, api.PeerState_DISCONNECT_REASON_UNSPECIFIED, "open-msg-negotiated"); got != "" {
		t.Errorf("an established session: %q", got)
	}
	if peer.Enabled(ctx, slog.LevelDebug) || !peer.Enabled(ctx, slog.LevelInfo) {
		t.Error("while it is up, Debug is looked at, or Info is not")
	}
	count := len(failed)
	peer.Info("received notification", slog.Int("Code", 6), slog.Int("Subcode", 3))
	if len(failed) != count {
		t.Errorf("a session that is up has failed: %q", failed)
	}
	want := "10.0.0.254 ended the session: it has taken this node out of its configuration"
	if got := n.settle(bgp.Idle, tor.Addr, api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART, ""); got != want {
		t.Errorf("a lost session: %q", got)
	}
}
