package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/manx-cni/manx/test/lab/audit"
)

// Bars of the design, the first and the later one.
const (
	barAdd      = "0.5×, then 0.25×"
	barDel      = "0.7×, then 0.3×"
	barTogether = "0.5×, then 0.25×"
	barRequests = "1, then 0"
	barRSS      = "12 MB, then 8 MB"
	barBinary   = "4 MB, then 3 MB"
)

// quantile returns the q-th quantile of d, which it sorts.
func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// waitedFor is the requests that an ADD or DEL may wait for. The handles and the pods'
// annotations are written behind the answer.
func waitedFor(log audit.Log) audit.Log {
	return log.Only(func(r audit.Request) bool { return r.Resource != "ipamhandles" && r.Resource != "pods/status" })
}

// report renders the tables about the plugin.
func report(samples []sample, requests audit.Log, plugin string) string {
	var t strings.Builder
	manx, peer := samples[0], samples[1]
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
	row := func(what string, m, p time.Duration, bar string) {
		fmt.Fprintf(&t, "| %s | %s | %s | %.2f× | %s |\n", what, ms(m), ms(p), float64(m)/float64(p), bar)
	}
	fmt.Fprintf(&t, "| what | %s | %s | ratio | bar |\n|---|---|---|---|---|\n", manx.Plugin, peer.Plugin)
	row("CNI ADD p50, sequential", quantile(manx.Add, .5), quantile(peer.Add, .5), barAdd)
	row("CNI ADD p95, sequential", quantile(manx.Add, .95), quantile(peer.Add, .95), "–")
	row("CNI DEL p50, sequential", quantile(manx.Del, .5), quantile(peer.Del, .5), barDel)
	row("CNI DEL p95, sequential", quantile(manx.Del, .95), quantile(peer.Del, .95), "–")
	row(fmt.Sprintf("%d ADDs started together, time to last", manx.Burst), manx.Together, peer.Together, barTogether)
	fmt.Fprintf(&t, "| peak resident set of an ADD's process | %.1f MB | %.1f MB | %.2f× | %s |\n",
		float64(manx.MaxRSS)/1e6, float64(peer.MaxRSS)/1e6, float64(manx.MaxRSS)/float64(peer.MaxRSS), barRSS)
	if info, err := os.Stat(plugin); err == nil {
		fmt.Fprintf(&t, "| plugin binary | %.2f MB | – | – | %s |\n", float64(info.Size())/1e6, barBinary)
	}
	within := func(s span) audit.Log { return requests.Between(s.From, s.To) }
	spans := []struct {
		title string
		log   audit.Log
		calls int
	}{
		{"ADD or DEL, sequential", within(manx.Sequence), 2 * manx.Sequence.Calls},
		{fmt.Sprintf("ADD, %d together", manx.Burst), within(manx.BurstAdd), manx.BurstAdd.Calls},
		{fmt.Sprintf("DEL, %d together", manx.Burst), within(manx.BurstDel), manx.BurstDel.Calls},
	}
	t.WriteString("\nRequests of the agent's to the API server, by its audit log, per call:\n\n| request |")
	for _, s := range spans {
		fmt.Fprintf(&t, " %s |", s.title)
	}
	t.WriteString(" bar |\n|---|---|---|---|---|\n| all that a call may wait for |")
	for _, s := range spans {
		fmt.Fprintf(&t, " %s |", perCall(len(waitedFor(s.log)), s.calls))
	}
	fmt.Fprintf(&t, " %s |\n", barRequests)
	kinds := map[string]bool{}
	for _, s := range spans {
		for k := range s.log.Count() {
			kinds[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		fmt.Fprintf(&t, "| %s |", k)
		for _, s := range spans {
			fmt.Fprintf(&t, " %s |", perCall(s.log.Count()[k], s.calls))
		}
		t.WriteString(" – |\n")
	}
	return t.String()
}

func perCall(n, calls int) string {
	if n == 0 || calls == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2f", float64(n)/float64(calls))
}

// reportRates renders the table about the agent and IPAM alone.
func reportRates(rates []rate) string {
	var t strings.Builder
	t.WriteString("\nAddresses assigned and released through the agent's socket, each worker one after the other:\n\n" +
		"| nodes | workers on each | pairs per second | requests waited for, per pair | all requests, per pair |\n|---|---|---|---|---|\n")
	for _, r := range rates {
		fmt.Fprintf(&t, "| %d | %d | %.0f | %s | %s |\n", r.nodes, r.workers, r.perSecond,
			perCall(len(waitedFor(r.requests)), r.calls), perCall(len(r.requests), r.calls))
	}
	return t.String()
}
