package main

import (
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/test/lab/audit"
)

// TestReport: requests go to the column of the span they were received in, and what is
// written behind an answer is not what a call waits for.
func TestReport(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	manx := sample{
		Plugin: "manx", Add: []time.Duration{4e6, 2e6, 3e6}, Del: []time.Duration{1e6}, Together: 5e6, Burst: 4, MaxRSS: 6e6,
		Sequence: span{at(0), at(10), 5}, BurstAdd: span{at(20), at(21), 4}, BurstDel: span{at(22), at(23), 4},
	}
	peer := sample{Plugin: "bridge", Add: []time.Duration{6e6}, Del: []time.Duration{4e6}, Together: 10e6, MaxRSS: 6e6}
	request := func(seconds float64, verb, resource string) audit.Request {
		return audit.Request{Verb: verb, Resource: resource, Received: at(seconds)}
	}
	text := report([]sample{manx, peer}, audit.Log{
		request(1, "update", "ipamblocks"), request(9, "update", "ipamblocks"), request(9, "create", "ipamhandles"),
		request(15, "list", "pods"), // in no span
		request(20.5, "update", "ipamblocks"),
	}, "no-such-file")
	for _, want := range []string{
		"| CNI ADD p50, sequential | 3.0 ms | 6.0 ms | 0.50× | 0.5×, then 0.25× |",
		"| 4 ADDs started together, time to last | 5.0 ms | 10.0 ms | 0.50× |",
		"| all that a call may wait for | 0.20 | 0.25 | 0 | 1, then 0 |",
		"| update ipamblocks | 0.20 | 0.25 | 0 | – |",
		"| create ipamhandles | 0.10 | 0 | 0 | – |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "pods") {
		t.Errorf("a request outside the spans is counted:\n%s", text)
	}
	rates := reportRates([]rate{{nodes: 3, workers: 2, perSecond: 99.6, calls: 2,
		requests: audit.Log{request(1, "update", "ipamblocks"), request(1, "create", "ipamhandles")}}})
	if want := "| 3 | 2 | 100 | 0.50 | 1.00 |\n"; !strings.HasSuffix(rates, want) {
		t.Errorf("no line %s in\n%s", want, rates)
	}
}
