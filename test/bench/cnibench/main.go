// Command cnibench times CNI plugins as a container runtime runs them: one
// process per ADD and DEL, in a fresh network namespace each. It runs inside a
// node's namespaces, where an agent serves the manx plugin, and takes turns
// between the plugins so that whatever else the machine does meets both. Standard
// input lists pods of the node, which the plugins are told they work for.
//
// With -alloc it asks the agent's socket for addresses and gives them back instead,
// without any interface: what the agent and IPAM can do.
//
// It prints one JSON document; test/bench makes the table of it.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// Plugin is one contender.
type Plugin struct {
	Name   string
	Binary string
	Conf   string // network configuration on standard input
}

// Sample holds what was measured of one plugin. Times are in nanoseconds.
type Sample struct {
	Plugin   string
	Add, Del []time.Duration // one after the other
	Together time.Duration   // from the start of the first of Burst ADDs to the end of the last
	Burst    int
	MaxRSS   int64 // bytes, the largest resident set of an ADD's process
	Sequence Span  // of all rounds
	BurstAdd Span
	BurstDel Span
}

// Span is when something was done, and how often.
type Span struct {
	From, To time.Time
	Calls    int
}

// Pod is a pod that the plugins are told they work for. Manx's agent knows it.
type Pod struct{ Namespace, Name, UID string }

func main() {
	rounds := flag.Int("rounds", 60, "sequential ADDs and DELs of each plugin")
	burst := flag.Int("burst", 100, "ADDs started together")
	manx := flag.String("manx", "/opt/cni/bin/manx", "the manx plugin")
	debian := flag.String("plugins", "/usr/lib/cni", "folder of the bridge and host-local plugins")
	alloc := flag.Duration("alloc", 0, "assign and release addresses for so long, and nothing else")
	workers := flag.Int("workers", 1, "of -alloc, that work at a time")
	cmdline.ParseFlags()
	pods, err := readPods(os.Stdin)
	var result any
	switch {
	case err != nil:
	case *alloc > 0:
		result, err = allocate(nodeapi.DefaultSocket, *alloc, *workers, pods)
	case len(pods) < *burst:
		err = fmt.Errorf("%d pods, want %d: one for each of the ADDs that are started together", len(pods), *burst)
	default:
		result, err = run(*rounds, *burst, *manx, *debian, pods)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cnibench:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, "cnibench:", err)
		os.Exit(1)
	}
}

func readPods(r io.Reader) (pods []Pod, err error) {
	if err := json.NewDecoder(r).Decode(&pods); err != nil {
		return nil, fmt.Errorf("read the list of pods from standard input: %w", err)
	}
	if len(pods) == 0 {
		return nil, errors.New("no pods on standard input; want a JSON list of {Namespace, Name, UID}")
	}
	return pods, nil
}

func run(rounds, burst int, manx, debian string, pods []Pod) ([]*Sample, error) {
	dir, err := os.MkdirTemp("", "cnibench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bridge := "cb" + randomHex(4)
	defer func() { _ = exec.Command("ip", "link", "del", bridge).Run() }()
	plugins := []Plugin{
		{"manx", manx, `{"cniVersion":"1.0.0","name":"k8s-pod-network","type":"manx","ipam":{"type":"manx-ipam"}}`},
		{"bridge + host-local", filepath.Join(debian, "bridge"), fmt.Sprintf(
			`{"cniVersion":"1.0.0","name":%q,"type":"bridge","bridge":%q,"isGateway":true,`+
				`"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"198.18.0.0/16"}]]}}`,
			bridge, bridge, dir)},
	}
	samples := make([]*Sample, len(plugins))
	for i, p := range plugins {
		samples[i] = &Sample{Plugin: p.Name, Burst: burst}
		for j := range 3 { // warm the page cache, the block and the bridge
			if err := sequential(p, samples[i], debian, pods[j%len(pods)]); err != nil {
				return nil, err
			}
		}
		*samples[i] = Sample{Plugin: p.Name, Burst: burst}
	}
	start := time.Now()
	for j := range rounds {
		for i, p := range plugins {
			// A name comes back after all others: its interface of before has gone.
			if err := sequential(p, samples[i], debian, pods[j%len(pods)]); err != nil {
				return nil, err
			}
		}
	}
	for i, p := range plugins {
		samples[i].Sequence = Span{start, time.Now(), rounds}
		if err := together(p, samples[i], debian, pods); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

// container is one sandbox: a network namespace and an ID.
type container struct {
	id, netns string
	pod       Pod
}

func newContainer(pod Pod) (container, error) {
	c := container{id: randomHex(32), pod: pod}
	c.netns = "cnibench-" + c.id[:12]
	return c, command("ip", "netns", "add", c.netns)
}

func (c container) remove() error { return command("ip", "netns", "del", c.netns) }

// invoke runs the plugin once and returns its wall time and resident set.
func (c container) invoke(p Plugin, verb, path string) (time.Duration, int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Binary)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + c.id, "CNI_NETNS=/var/run/netns/" + c.netns, "CNI_IFNAME=eth0",
		"CNI_PATH=" + path, "PATH=" + os.Getenv("PATH"),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=" + c.pod.Namespace + ";K8S_POD_NAME=" + c.pod.Name +
			";K8S_POD_UID=" + c.pod.UID + ";K8S_POD_INFRA_CONTAINER_ID=" + c.id,
	}
	cmd.Stdin = bytes.NewBufferString(p.Conf)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		return 0, 0, fmt.Errorf("%s %s of container %s: %w: %s", p.Name, verb, c.id, err, out.String())
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return took, usage.Maxrss * 1024, nil // ru_maxrss is in KiB, getrusage(2)
}

// sequential runs ADD then DEL.
func sequential(p Plugin, s *Sample, path string, pod Pod) error {
	c, err := newContainer(pod)
	if err != nil {
		return err
	}
	add, rss, err := c.invoke(p, "ADD", path)
	if err == nil {
		var del time.Duration
		if del, _, err = c.invoke(p, "DEL", path); err == nil {
			s.Add, s.Del, s.MaxRSS = append(s.Add, add), append(s.Del, del), max(s.MaxRSS, rss)
		}
	}
	return errors.Join(err, c.remove())
}

// together starts s.Burst ADDs at once and waits for the last.
func together(p Plugin, s *Sample, path string, pods []Pod) error {
	containers := make([]container, s.Burst)
	for i := range containers {
		var err error
		if containers[i], err = newContainer(pods[i]); err != nil {
			return err
		}
	}
	each := func(verb string, span *Span) error {
		errs := make([]error, len(containers))
		var wg sync.WaitGroup
		span.From, span.Calls = time.Now(), len(containers)
		for i, c := range containers {
			wg.Go(func() { _, _, errs[i] = c.invoke(p, verb, path) })
		}
		wg.Wait()
		span.To = time.Now()
		return errors.Join(errs...)
	}
	errAdd := each("ADD", &s.BurstAdd)
	s.Together = s.BurstAdd.To.Sub(s.BurstAdd.From)
	errs := []error{errAdd, each("DEL", &s.BurstDel)}
	for _, c := range containers {
		errs = append(errs, c.remove())
	}
	return errors.Join(errs...)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, crypto/rand
	return hex.EncodeToString(b)
}
