// Command bench measures what Manx promises to be fast at, as ratios against a
// peer in the same run: these figures travel between machines, times do not.
//
// It makes a lab of three nodes with Manx on it, runs cnibench inside the nodes,
// counts the agents' requests in the API server's audit log, and prints tables with
// the bars of the design beside the figures. -out also writes them as Markdown, for
// docs/benchmarks.md.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/audit"
)

// sample is what cnibench prints of one plugin.
type sample struct {
	Plugin   string
	Add, Del []time.Duration
	Together time.Duration
	Burst    int
	MaxRSS   int64
	Sequence span
	BurstAdd span
	BurstDel span
}

// span is when something was done, and how often.
type span struct {
	From, To time.Time
	Calls    int
}

// rate is how many allocations there were in a second, and what the agents asked for them.
type rate struct {
	nodes, workers int // workers on each node
	perSecond      float64
	calls          int
	requests       audit.Log
}

type bench struct {
	bin, name string
	cluster   *lab.Cluster
	nodes     []string
	pods      map[string][]byte // of each node, as cnibench reads them
}

func main() {
	bin := flag.String("bin", "bin", "folder of the built binaries")
	name := flag.String("lab", "bench", "name of the lab to make and remove")
	image := flag.String("image", "build/manx.tar", "the image of manifests/manx.yaml")
	manifest := flag.String("manifest", "manifests/manx.yaml", "what is installed")
	rounds := flag.Int("rounds", 60, "sequential ADDs and DELs of each plugin")
	burst := flag.Int("burst", 100, "ADDs started together")
	alloc := flag.Duration("alloc", 4*time.Second, "how long addresses are assigned and released, three times")
	workers := flag.Int("workers", 32, "that assign and release on a node at a time")
	out := flag.String("out", "", "also write the tables to this file, as Markdown")
	cmdline.ParseFlags()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{bin: *bin, name: *name}
	text, err := b.run(ctx, *image, *manifest, *rounds, *burst, *alloc, *workers)
	fmt.Print(text)
	if err == nil && *out != "" {
		err = os.WriteFile(*out, []byte(text), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run returns the tables.
func (b *bench) run(
	ctx context.Context, image, manifest string, rounds, burst int, alloc time.Duration, workers int,
) (text string, err error) {
	defer func() {
		err = errors.Join(err, b.lab(context.WithoutCancel(ctx), "down"))
	}()
	if err := b.install(ctx, image, manifest, max(burst, workers)); err != nil {
		return "", err
	}
	recording, err := b.cluster.RecordRequests()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "measuring: %d rounds, then %d together\n", rounds, burst)
	var samples []sample
	node := b.nodes[1]
	if err := b.cnibench(ctx, node, &samples, "-rounds", strconv.Itoa(rounds), "-burst", strconv.Itoa(burst)); err != nil {
		return "", err
	}
	requests, err := b.requests(ctx, recording, node)
	if err != nil {
		return "", err
	}
	text = report(samples, requests, filepath.Join(b.bin, "manx"))
	var rates []rate
	for _, c := range []struct {
		nodes   []string
		workers int
	}{{b.nodes[1:2], 1}, {b.nodes[1:2], workers}, {b.nodes, workers}} {
		fmt.Fprintf(os.Stderr, "measuring: %d workers on each of %d nodes for %v\n", c.workers, len(c.nodes), alloc)
		r, err := b.allocate(ctx, c.nodes, c.workers, alloc)
		if err != nil {
			return text, err
		}
		rates = append(rates, r)
	}
	return text + reportRates(rates), nil
}

// cnibench runs the tool on a node and decodes its answer.
func (b *bench) cnibench(ctx context.Context, node string, into any, args ...string) error {
	tool, err := filepath.Abs(filepath.Join(b.bin, "cnibench"))
	if err != nil {
		return err
	}
	var stdout, stderr bytes.Buffer
	o := lab.ExecOptions{Stdin: bytes.NewReader(b.pods[node]), Stdout: &stdout, Stderr: &stderr}
	p, err := b.cluster.Start(ctx, node, o, append([]string{lab.HostPath(tool)}, args...)...)
	if err != nil {
		return err
	}
	if err := p.Wait(); err != nil {
		return fmt.Errorf("cnibench on %s: %w: %s", node, err, stderr.String())
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		return fmt.Errorf("read cnibench's answer %.200q: %w", stdout.String(), err)
	}
	return nil
}

// requests is what the nodes' agents have asked for pods since the recording began.
func (b *bench) requests(ctx context.Context, r *lab.Recording, nodes ...string) (audit.Log, error) {
	all, err := r.Requests(ctx)
	if err != nil {
		return nil, err
	}
	var out audit.Log
	for _, node := range nodes {
		addr, err := b.cluster.Addr(node)
		if err != nil {
			return nil, err
		}
		out = append(out, all.From(addr)...)
	}
	return out.By(audit.ServiceAccount("kube-system", "manx-node")).Of("pods", "pods/status", "namespaces", "ippools",
		"ipreservations", "ipamconfigs", "ipamblocks", "blockaffinities", "ipamhandles"), nil
}

// allocate has workers assign and release addresses on the nodes at the same time.
func (b *bench) allocate(ctx context.Context, nodes []string, workers int, howLong time.Duration) (rate, error) {
	r := rate{nodes: len(nodes), workers: workers}
	recording, err := b.cluster.RecordRequests()
	if err != nil {
		return r, err
	}
	spans := make([]span, len(nodes))
	g, gctx := errgroup.WithContext(ctx)
	for i, node := range nodes {
		g.Go(func() error {
			return b.cnibench(gctx, node, &spans[i], "-alloc", howLong.String(), "-workers", strconv.Itoa(workers))
		})
	}
	if err := g.Wait(); err != nil {
		return r, err
	}
	for _, s := range spans {
		r.calls += s.Calls
		r.perSecond += float64(s.Calls) / s.To.Sub(s.From).Seconds()
	}
	r.requests, err = b.requests(ctx, recording, nodes...)
	return r, err
}

// lab runs bin/lab: a machine's first process is that program.
func (b *bench) lab(ctx context.Context, args ...string) error {
	fmt.Fprintf(os.Stderr, "lab %s\n", strings.Join(args, " "))
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "lab"), args...)
	cmd.Env = append(os.Environ(), "MANX_LAB="+b.name)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lab %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return nil
}
