package preflight

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"net/netip"
)

var update = flag.Bool("update", false, "write golden files instead of comparing them")

func nodes(n int) (out []Target) {
	for i := range n {
		out = append(out, Target{
			Name: "node" + string(rune('1'+i)), Addr: netip.AddrFrom4([4]byte{172, 30, 0, byte(11 + i)}),
			TunnelAddr: netip.AddrFrom4([4]byte{10, 244, byte(i), 1}),
		})
	}
	return out
}

// reports of nodes between which everything passes.
func reports(kind Kind, list []Target) (out []Report) {
	for _, self := range list {
		r := Report{Node: self, Kind: kind, MTU: 1500}
		if kind == KindBGP {
			r.Port = 179
		}
		for _, t := range list {
			for _, c := range kind.Checks() {
				if t != self {
					r.Results = append(r.Results, Result{Peer: t, Check: c, Heard: c.heard(), Answered: true, Size: Config{MTU: 1500}.size(c)})
				}
			}
		}
		out = append(out, r)
	}
	return out
}

// lose takes the packets of one check from one node to another away. Answers are
// lost with the requests of the other direction only where they are no replies of
// a kernel.
func lose(reports []Report, from, to int, check Check, detail string) {
	for i := range reports[from].Results {
		r := &reports[from].Results[i]
		if r.Peer == reports[to].Node && r.Check == check {
			r.Answered, r.Detail = false, detail
		}
	}
	for i := range reports[to].Results {
		r := &reports[to].Results[i]
		if r.Peer == reports[from].Node && r.Check == check && check.heard() {
			r.Heard, r.Answered = false, false
		}
	}
}

func TestMatrixText(t *testing.T) {
	for name, tc := range map[string]struct {
		kind Kind
		n    int
		f    func(r []Report) []Report
	}{
		"ipip-passes": {KindIPIP, 3, func(r []Report) []Report { return r }},
		"bgp-passes":  {KindBGP, 2, func(r []Report) []Report { return r }},
		"ipip-one-way": {KindIPIP, 4, func(r []Report) []Report {
			lose(r, 1, 2, CheckIPIP, "")
			lose(r, 1, 2, CheckIPIPMTU, "")
			lose(r, 3, 0, CheckIPIPMTU, "message too long")
			return r
		}},
		"ipip-no-report": {KindIPIP, 4, func(r []Report) []Report {
			// node2 is told of, and answers nobody. node3's agent is not running.
			lose(r, 0, 1, CheckIPIP, "")
			lose(r, 0, 1, CheckIPIPMTU, "")
			r[2] = Report{Node: r[2].Node, Error: "its agent (pod manx-node-x, Pending) has not started"}
			return append(r[:1], r[2:]...)
		}},
		"bgp-fails": {KindBGP, 3, func(r []Report) []Report {
			lose(r, 0, 1, CheckTCP, refused)
			lose(r, 2, 1, CheckTCP, errNoAnswer.Error())
			lose(r, 1, 2, CheckTCP, "no route to host")
			lose(r, 1, 2, CheckMTU, "")
			lose(r, 0, 2, CheckMTU, "")
			lose(r, 0, 2, CheckPod, "")
			lose(r, 2, 0, CheckPod, "")
			return r
		}},
		"bgp-no-tunnels-passes": {KindBGP, 2, func(r []Report) []Report {
			for i := range r {
				r[i].Results = slices.DeleteFunc(r[i].Results, func(res Result) bool { return res.Check == CheckPod })
			}
			return r
		}},
		"bgp-not-together": {KindBGP, 3, func(r []Report) []Report {
			// node3 began when the others had ended. Its kernel answered all the same,
			// but for what comes with pod addresses; who listens on its port is not node3.
			at := time.Unix(1e9, 0)
			for i, start := range []int{0, 2, 15} {
				r[i].Started, r[i].Ended = at.Add(time.Duration(start)*time.Second), at.Add(time.Duration(start+10)*time.Second)
			}
			lose(r, 0, 1, CheckPod, "")
			lose(r, 0, 2, CheckPod, "")
			lose(r, 1, 2, CheckTCP, refused)
			return r
		}},
		"tunnel-fails": {KindTunnel, 2, func(r []Report) []Report {
			lose(r, 1, 0, CheckTunnel, "operation not permitted")
			return r
		}},
		"no-address": {KindIPIP, 2, func(r []Report) []Report {
			return append(r, Report{Node: Target{Name: "node9"}, Error: "no annotation projectcalico.org/IPv4Address"})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := Merge(tc.kind, tc.f(reports(tc.kind, nodes(tc.n))))
			if (m.Err() == nil) != m.OK() || m.OK() != strings.HasSuffix(name, "passes") {
				t.Errorf("OK %v, Err %v", m.OK(), m.Err())
			}
			var out bytes.Buffer
			if err := m.WriteText(&out); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(want, out.Bytes()) {
				t.Errorf("%s (%v) has\n%s\nand this is\n%s", path, err, want, out.Bytes())
			}
		})
	}
}

// Who heard, and who was answered, both prove the way there.
func TestMergeTakesEitherProof(t *testing.T) {
	list := nodes(2)
	for name, tc := range map[string]struct {
		heard, answered bool // node2 heard node1; node1 was answered
		want            bool
	}{
		"heard, the reply lost": {true, false, true},
		"answered by the agent": {false, true, true},
		"both":                  {true, true, true},
		"neither":               {false, false, false},
	} {
		r := reports(KindIPIP, list)
		for i := range r[0].Results {
			r[0].Results[i].Answered = tc.answered
			r[1].Results[i].Heard = tc.heard
		}
		if m := Merge(KindIPIP, r); m.OK() != tc.want {
			t.Errorf("%s: failures %v", name, m.Failures)
		}
	}
}

// Silence means something only where both have run.
func TestMergeJudgesThoseWhoRanTogether(t *testing.T) {
	at := time.Unix(1e9, 0)
	for name, tc := range map[string]struct {
		starts, lasts time.Duration // of node2, node1 runs from 0 for 10 s
		unknown       bool
	}{
		"together":                     {0, 10 * time.Second, false},
		"within":                       {3 * time.Second, 4 * time.Second, false},
		"a second":                     {9 * time.Second, 10 * time.Second, false},
		"less than a second":           {9500 * time.Millisecond, 10 * time.Second, true},
		"afterwards":                   {30 * time.Second, 10 * time.Second, true},
		"before":                       {-30 * time.Second, 10 * time.Second, true},
		"most of what is a short time": {9500 * time.Millisecond, 600 * time.Millisecond, false},
	} {
		r := reports(KindIPIP, nodes(2))
		r[0].Started, r[0].Ended = at, at.Add(10*time.Second)
		r[1].Started, r[1].Ended = at.Add(tc.starts), at.Add(tc.starts+tc.lasts)
		if m := Merge(KindIPIP, r); !m.OK() {
			t.Errorf("%s: all was answered, and fails: %+v", name, m)
		}
		lose(r, 0, 1, CheckIPIP, "")
		m := Merge(KindIPIP, r)
		if got := len(m.Unknown) == 1 && len(m.Failures) == 0; got != tc.unknown || !got && len(m.Failures) != 1 {
			t.Errorf("%s: failures %+v, unknown %+v; want unknown %v", name, m.Failures, m.Unknown, tc.unknown)
		}
	}
}

func TestReportIsJSON(t *testing.T) {
	want := Report{
		Node: Target{Name: "a", Addr: alice}, Kind: KindIPIP, MTU: 1500,
		Results: []Result{{Peer: Target{Name: "b", Addr: bob}, Check: CheckIPIP, Heard: true, Size: 84}},
	}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const s = `{"node":{"name":"a","addr":"192.0.2.1"},"kind":"ipip","mtu":1500,` +
		`"results":[{"peer":{"name":"b","addr":"192.0.2.2"},"check":"ipip","heard":true,"answered":false,"size":84}]}`
	if string(raw) != s {
		t.Errorf("%s\nwant\n%s", raw, s)
	}
	var got Report
	if err := json.Unmarshal(raw, &got); err != nil || got.Node != want.Node || got.Results[0] != want.Results[0] {
		t.Errorf("%+v, %v", got, err)
	}
}
