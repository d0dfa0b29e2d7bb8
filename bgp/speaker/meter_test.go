package speaker

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// Peers that send what peers send are let alone, those that do not are named with the reason.
func TestMeter(t *testing.T) {
	peer := netip.MustParseAddr("10.0.0.2")
	const look = 250 * time.Millisecond
	for _, tc := range []struct {
		name  string
		looks int
		// at is the reading at the given time since the start.
		at   func(s float64) bgp.Traffic
		want string // a part of the reason; empty: never shut out
	}{
		{"a node that starts", 4000, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: min(uint64(s*1e6), 4096*250), Paths: min(int(s*4000), 4096)}
		}, ""},
		{"a reflector with 100,000 routes, one by one, four times", 4000, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: min(uint64(s*10e6), 4*100_000*250), Paths: min(int(s*10e6/250), 100_000)}
		}, ""},
		{"a router with 200,000 routes that all go and come once", 4000, func(s float64) bgp.Traffic {
			r := bgp.Traffic{Read: min(uint64(s*20e6), 3*200_000*100), Paths: 200_000}
			if s > 2 && s < 3 {
				r.Paths = 0
			}
			return r
		}, ""},
		{"100 changes a second for an hour", 4 * 3600, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s * 100 * 150), Paths: 100}
		}, ""},
		{"keepalives for a day", 4 * 86400, func(s float64) bgp.Traffic { return bgp.Traffic{Read: uint64(s) / 30 * 19} }, ""},
		{"a request every ten seconds", 4 * 3600, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s) / 10 * 23, Requests: uint64(s) / 10}
		}, ""},
		{"sessions that break and come back with 20 routes", 4 * 600, func(s float64) bgp.Traffic {
			return bgp.Traffic{Connection: uint64(s) / 10, Read: 2000, Paths: 20}
		}, ""},
		{"a slow reader that takes it in the end", 4 * 300, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s * 10), Taken: uint64(s * 1e5), Waiting: 4e6}
		}, ""},
		{"one that is gone, and has taken nothing", 4 * 80, func(float64) bgp.Traffic {
			return bgp.Traffic{Read: 1000, Taken: 1000, Waiting: 57}
		}, ""},

		{"churn of 3,120 routes", 4 * 60, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s * 240e3), Paths: 3120}
		}, "kB in a row for 3120 paths"},
		{"65 kB of attributes a path", 4 * 60, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s * 1e6), Paths: int(s * 1e6 / 65_000)}
		}, "attributes beyond measure"},
		{"End-of-RIB for ever", 4 * 60, func(s float64) bgp.Traffic { return bgp.Traffic{Read: uint64(s * 1e6)} }, "for 0 paths"},
		{"requests", 4 * 60, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s * 2300), Requests: uint64(s * 100)}
		}, "asked for all routes"},
		{"a session that breaks before each allowance is used up", 4 * 60, func(s float64) bgp.Traffic {
			return bgp.Traffic{Connection: uint64(s) / 5, Read: 500_000, Paths: 100}
		}, "in a row for 100 paths"},
		{"deaf", 4 * 80, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s * 10), Taken: 1000, Waiting: 1 << 20}
		}, "has not taken what was sent to it for 1m0s"},
		{"deaf, but for a byte now and then", 4 * 120, func(s float64) bgp.Traffic {
			return bgp.Traffic{Read: uint64(s * 10), Taken: 1000 + uint64(s), Waiting: 1 << 20}
		}, "has not taken what was sent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var m meter
			start := time.Unix(1_000_000, 0)
			for i := range tc.looks {
				passed := time.Duration(i+1) * look
				r := tc.at(passed.Seconds())
				r.Peer = peer
				if why := m.look(start.Add(passed), []bgp.Traffic{r})[peer]; why != "" {
					if tc.want == "" || !strings.Contains(why, tc.want) {
						t.Errorf("shut out after %s: %s; want %q", passed, why, tc.want)
					}
					return
				}
			}
			if tc.want != "" {
				t.Errorf("not shut out; want %q", tc.want)
			}
		})
	}
}

// One peer's use is not another's, and nothing is remembered of one that was away for long.
func TestMeterOfSeveral(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	var m meter
	now := time.Unix(1_000_000, 0)
	got := m.look(now, []bgp.Traffic{{Peer: a, Read: 10 << 20}, {Peer: b, Read: 100}})
	if len(got) != 1 || got[a] == "" {
		t.Errorf("%v, want %s alone", got, a)
	}
	m.look(now.Add(time.Hour), nil)
	if len(m.of) != 0 {
		t.Errorf("%d are remembered", len(m.of))
	}
}
