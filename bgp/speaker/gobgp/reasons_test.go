package gobgp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// reasons are the distinct errors that the session has had, in order.
func (n *node) reasons(peer string) (out []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.reports {
		if e := r.Sessions[peer].LastError; e != "" && (len(out) == 0 || out[len(out)-1] != e) {
			out = append(out, e)
		}
	}
	return out
}

// waitReason waits until the session has had an error that says that.
func (n *node) waitReason(peer, says string) {
	n.t.Helper()
	defer func() { n.t.Logf("%q", n.reasons(peer)) }()
	wait(n.t, 30*time.Second, "the reason: "+says, func() bool {
		for _, e := range n.reasons(peer) {
			if strings.Contains(e, says) {
				return true
			}
		}
		return false
	})
}

// TestReasons: why a session does not come up is said in words that name what to look at.
func TestReasons(t *testing.T) {
	t.Parallel()
	const tor = "192.168.77.2"
	for _, tc := range []struct {
		name     string
		config   bgp.PeerConfig
		password string
		words    string // of the BIRD; "none": there is no BIRD
		want     string
	}{
		{"nothing listens", bgp.PeerConfig{}, "", "none", tor + ": connection refused"},
		{"another port", bgp.PeerConfig{Router: bgp.Router{Port: 1790}}, "", "none", tor + ":1790: connection refused"},
		{"it is of another AS", bgp.PeerConfig{Router: bgp.Router{AS: 65009}}, "", "",
			"AS mismatch: we expect 65009, and " + tor + " says that it is of another AS"},
		{"it expects another AS", bgp.PeerConfig{}, "", "neighbor as 64999;", tor + " refuses our OPEN: does it expect us to be of AS 64512?"},
		{"it expects another AS than the local AS", bgp.PeerConfig{LocalAS: 65100}, "", "",
			tor + " refuses our OPEN: does it expect us to be of AS 65100?"},
		{"another password", bgp.PeerConfig{}, "secret", `password "other";`,
			"no connection yet: is TCP port 179 of " + tor + " open, does it have the same password?"},
		{"a password there alone", bgp.PeerConfig{}, "", `password "other";`, "no connection yet: is TCP port 179 of " + tor + " open?"},
		{"our router ID", bgp.PeerConfig{Router: bgp.Router{AS: clusterAS}}, "", "local as 64512; router id 192.168.77.1;",
			tor + " has our own router ID"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, "a", "tor")
			if tc.words != "none" {
				f.tor("tor", "a", "", tc.words)
			}
			s := f.withRouter("a", "tor", tc.config)
			s.Password = tc.password
			a := f.start(s)
			a.waitReason("tor", tc.want)
			if a.established("tor") {
				t.Error("the session is up")
			}
		})
	}
}

// TestLostReasons: what ended a session that was up is said, graceful restart or not.
func TestLostReasons(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, words string
		end         func(f *fabric, b *bird)
		want        string
	}{
		{"silence", "hold time 6;", func(f *fabric, _ *bird) { f.ip("-n", f.ns("tor"), "link", "set", "eth0", "down") }, "hold timer expired"},
		{"silence without graceful restart", "hold time 6; graceful restart off;",
			func(f *fabric, _ *bird) { f.ip("-n", f.ns("tor"), "link", "set", "eth0", "down") }, "hold timer expired"},
		{"shut down there", "", func(_ *fabric, b *bird) { b.ask("disable", "node", `"maintenance until nine"`) },
			`192.168.77.2 ended the session: it was shut down there by its operator ("maintenance until nine")`},
		{"taken out of the configuration", "", func(f *fabric, b *bird) {
			b.write("router id 192.168.77.2; protocol device { }")
			b.ask("configure")
		}, "192.168.77.2 ended the session: it has taken this node out of its configuration"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, "a", "tor")
			b := f.tor("tor", "a", "", tc.words)
			a := f.start(f.withRouter("a", "tor", bgp.PeerConfig{}))
			// A BIRD that hangs up with words of ours unread resets the connection, and its last
			// words are lost: all has to be said before.
			wait(t, 30*time.Second, "the session, and all that both have to say", func() bool {
				// Without graceful restart BIRD sends no End-of-RIB.
				x := a.report().Sessions["tor"]
				return x.State == bgp.Established && (x.EndOfRIB || strings.Contains(tc.words, "restart off")) &&
					strings.Contains(b.ask("show", "route"), f.block("a").String())
			})
			tc.end(f, b)
			a.waitReason("tor", tc.want)
			if n := a.report().Sessions["tor"].Flaps; n != 1 {
				t.Errorf("%d flaps, want 1", n)
			}
		})
	}
}

// TestReasonOfStranger: a router that does not know this node as a neighbor hangs up.
func TestReasonOfStranger(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "tor")
	f.birdOf("tor", `router id 192.168.77.2;
protocol device { }
protocol bgp node { local 192.168.77.2 as 65001; neighbor 192.168.77.9 as 64512; ipv4 { import all; export none; }; }
`)
	a := f.start(f.withRouter("a", "tor", bgp.PeerConfig{}))
	a.waitReason("tor", "192.168.77.2 closed the connection before it said a word: does it have this node as a BGP neighbor?")
}

// TestReasonOfTTLSecurity: the connection is there or not, and no packet of the peer's
// counts: nothing fails for minutes, and what to look at is said all the same.
func TestReasonOfTTLSecurity(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "tor")
	f.tor("tor", "a", "", "")
	a := f.start(f.withRouter("a", "tor", bgp.PeerConfig{TTLSecurity: 1}))
	wait(t, 30*time.Second, "what to look at", func() bool {
		return a.report().Sessions["tor"].Why == "no connection yet: is TCP port 179 of 192.168.77.2 open, is it 1 hop(s) away at most?"
	})
}
