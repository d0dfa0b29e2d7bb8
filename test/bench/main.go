// Command bench measures what Manx promises to be fast at, as ratios against a
// peer in the same run: these figures travel between machines, times do not.
//
// It makes a lab of two nodes with Manx on it, runs cnibench inside a node, reads
// the API server's own request counters around it, and prints one table. -out
// also writes it as Markdown, for docs/benchmarks.md.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/manx-cni/manx/test/lab"
)

// sample is what cnibench prints of one plugin.
type sample struct {
	Plugin   string
	Add, Del []time.Duration
	Together time.Duration
	Burst    int
	MaxRSS   int64
}

type bench struct {
	bin, lab, node string
}

func main() {
	bin := flag.String("bin", "bin", "folder of the built binaries")
	name := flag.String("lab", "bench", "name of the lab to make and remove")
	image := flag.String("image", "build/manx.tar", "the image of manifests/manx.yaml")
	manifest := flag.String("manifest", "manifests/manx.yaml", "what is installed")
	rounds := flag.Int("rounds", 60, "sequential ADDs and DELs of each plugin")
	burst := flag.Int("burst", 100, "ADDs started together")
	out := flag.String("out", "", "also write the table to this file, as Markdown")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := bench{bin: *bin, lab: *name, node: "node2"}
	if err := b.run(ctx, *image, *manifest, *rounds, *burst, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b bench) run(ctx context.Context, image, manifest string, rounds, burst int, out string) (err error) {
	defer func() {
		if _, errDown := b.output(context.WithoutCancel(ctx), "down"); errDown != nil {
			err = fmt.Errorf("%w (and removing the lab: %v)", err, errDown)
		}
	}()
	if err := b.install(ctx, image, manifest); err != nil {
		return err
	}
	before, err := b.requests(ctx)
	if err != nil {
		return err
	}
	tool, err := filepath.Abs(filepath.Join(b.bin, "cnibench"))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "measuring: %d rounds, then %d together\n", rounds, burst)
	raw, err := b.output(ctx, "exec", b.node, lab.HostPath(tool), "-rounds", strconv.Itoa(rounds), "-burst", strconv.Itoa(burst))
	if err != nil {
		return err
	}
	after, err := b.requests(ctx)
	if err != nil {
		return err
	}
	var samples []sample
	if err := json.Unmarshal(raw, &samples); err != nil {
		return fmt.Errorf("read cnibench's answer %.200q: %w", raw, err)
	}
	text := report(samples, rounds+burst+3, before, after, filepath.Join(b.bin, "manx"))
	fmt.Print(text)
	if out != "" {
		return os.WriteFile(out, []byte(text), 0o644)
	}
	return nil
}

// install makes the cluster and waits for its agents.
func (b bench) install(ctx context.Context, image, manifest string) error {
	kubectl := []string{"kubectl", "--"}
	steps := [][]string{
		{"up", "--nodes", "2", "--no-cni"},
		{"load-image", image},
		append(slices.Clone(kubectl), "create", "-f", manifest),
		append(slices.Clone(kubectl), "-n", "kube-system", "rollout", "status", "ds/manx-node", "--timeout=180s"),
	}
	for _, s := range steps {
		fmt.Fprintf(os.Stderr, "lab %s\n", strings.Join(s, " "))
		if _, err := b.output(ctx, s...); err != nil {
			return err
		}
	}
	return nil
}

// output runs bin/lab and returns its standard output.
func (b bench) output(ctx context.Context, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "lab"), args...)
	cmd.Env = append(os.Environ(), "MANX_LAB="+b.lab)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("lab %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// requests reads how many requests the API server has answered for IPAM's kinds
// and pods/status, by "verb resource": its own counter, apiserver_request_total.
func (b bench) requests(ctx context.Context) (map[string]int, error) {
	raw, err := b.output(ctx, "kubectl", "--", "get", "--raw", "/metrics")
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		labels, ok := strings.CutPrefix(line, "apiserver_request_total{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		get := func(key string) string {
			_, v, _ := strings.Cut(labels, key+`="`)
			v, _, _ = strings.Cut(v, `"`)
			return v
		}
		switch get("resource") {
		case "ipamblocks", "ipamhandles", "blockaffinities", "ipamconfigs", "ippools":
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return nil, fmt.Errorf("API server metric %q: %w", line, err)
			}
			out[get("verb")+" "+get("resource")] += int(n)
		}
	}
	return out, nil
}

// quantile returns the q-th quantile of d, which it sorts.
func quantile(d []time.Duration, q float64) time.Duration {
	slices.Sort(d)
	if len(d) == 0 {
		return 0
	}
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// report renders the table. containers is how many ADDs and DELs manx served.
func report(samples []sample, containers int, before, after map[string]int, plugin string) string {
	var t strings.Builder
	manx, peer := samples[0], samples[1]
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
	row := func(what string, m, p time.Duration) {
		fmt.Fprintf(&t, "| %s | %s | %s | %.2f× |\n", what, ms(m), ms(p), float64(m)/float64(p))
	}
	fmt.Fprintf(&t, "| what | %s | %s | ratio |\n|---|---|---|---|\n", manx.Plugin, peer.Plugin)
	row("CNI ADD p50, sequential", quantile(manx.Add, .5), quantile(peer.Add, .5))
	row("CNI ADD p95, sequential", quantile(manx.Add, .95), quantile(peer.Add, .95))
	row("CNI DEL p50, sequential", quantile(manx.Del, .5), quantile(peer.Del, .5))
	row("CNI DEL p95, sequential", quantile(manx.Del, .95), quantile(peer.Del, .95))
	row(fmt.Sprintf("%d ADDs started together, time to last", manx.Burst), manx.Together, peer.Together)
	fmt.Fprintf(&t, "| peak resident set of an ADD's process | %.1f MB | %.1f MB | %.2f× |\n",
		float64(manx.MaxRSS)/1e6, float64(peer.MaxRSS)/1e6, float64(manx.MaxRSS)/float64(peer.MaxRSS))
	if info, err := os.Stat(plugin); err == nil {
		fmt.Fprintf(&t, "\nPlugin binary: %.2f MB.\n", float64(info.Size())/1e6)
	}
	fmt.Fprintf(&t, "\nRequests to the API server for %d ADDs and %d DELs:\n\n| request | in all | per ADD and DEL |\n|---|---|---|\n", containers, containers)
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if n := after[k] - before[k]; n > 0 {
			fmt.Fprintf(&t, "| %s | %d | %.2f |\n", k, n, float64(n)/float64(containers))
		}
	}
	return t.String()
}
