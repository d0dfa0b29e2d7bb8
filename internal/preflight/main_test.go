package preflight

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// envTask holds what this binary does as a node: nodes are processes in network
// namespaces of their own.
const envTask = "MANX_TEST_PREFLIGHT"

// task of a node. It prints its answer as JSON.
type task struct {
	Do     string // run, probe, answer, decapsulate, listen, speak
	Config Config
	// Nodes are whom answer answers.
	Nodes []netip.Addr
}

func TestMain(m *testing.M) {
	raw := os.Getenv(envTask)
	if raw == "" {
		nltest.Main(m)
	}
	if err := work(raw); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func work(raw string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var t task
	if err := json.Unmarshal([]byte(raw), &t); err != nil {
		return err
	}
	switch t.Do {
	case "run":
		r, err := Run(ctx, t.Config)
		return errors.Join(err, json.NewEncoder(os.Stdout).Encode(r))
	case "probe":
		r, err := Probe(ctx, t.Config)
		return errors.Join(err, json.NewEncoder(os.Stdout).Encode(r))
	case "answer":
		return Answer(ctx, t.Config.Self, func(a netip.Addr) bool { return slices.Contains(t.Nodes, a) })
	case "decapsulate":
		return decapsulate(ctx, t.Config.Self.Addr)
	case "listen":
		l, err := net.Listen("tcp4", netip.AddrPortFrom(t.Config.Self.Addr, DefaultPort).String())
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = l.Close() })()
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil // closed
			}
			conn.Close()
		}
	case "speak":
		return speak(ctx, t.Config)
	}
	return fmt.Errorf("no task %q", t.Do)
}

// fabric is a bridge with nodes on it: node1 has 172.30.0.11, and so on.
type fabric struct {
	t     *testing.T
	nodes []*node
}

type node struct {
	nltest.NS
	Target
	port string // its end on the bridge
}

func newFabric(t *testing.T, n int) *fabric {
	t.Helper()
	f := &fabric{t: t}
	bridge := nltest.Name("br")
	nltest.Run(t, "ip", "link", "add", bridge, "type", "bridge")
	t.Cleanup(func() { nltest.Run(t, "ip", "link", "del", bridge) })
	nltest.Run(t, "ip", "link", "set", bridge, "up")
	for i := range n {
		addr := netip.AddrFrom4([4]byte{172, 30, 0, byte(11 + i)})
		nd := &node{NS: nltest.NewNS(t), Target: Target{Name: fmt.Sprintf("node%d", i+1), Addr: addr}, port: nltest.Name("p")}
		nd.Veth(t, nd.port, "eth0")
		nltest.Run(t, "ip", "link", "set", nd.port, "master", bridge)
		nd.NS.Run(t, "ip", "addr", "add", addr.String()+"/24", "dev", "eth0")
		f.nodes = append(f.nodes, nd)
	}
	return f
}

func (f *fabric) targets() (out []Target) {
	for _, n := range f.nodes {
		out = append(out, n.Target)
	}
	return out
}

// rule adds a rule to the input chain of the node.
func (n *node) rule(t *testing.T, rule string) {
	t.Helper()
	n.NS.Run(t, "nft", "add table ip t; add chain ip t in { type filter hook input priority 0; }; add rule ip t in "+rule)
}

// process is a node at work.
type process struct {
	cmd    *exec.Cmd
	out    bytes.Buffer
	errOut string // the file that has what it printed to stderr
}

func (n *node) start(t *testing.T, k task) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k.Config.Self = n.Target
	raw, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	errOut, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer errOut.Close()
	p := &process{cmd: n.Command(self), errOut: errOut.Name()}
	p.cmd.Env = append(os.Environ(), envTask+"="+string(raw))
	p.cmd.Stdout, p.cmd.Stderr = &p.out, errOut
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	if p.cmd.ProcessState == nil {
		hard := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
		defer hard.Stop()
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait() // ended by a signal: an error, which tells nothing
	}
}

// said is what the node printed to stderr so far.
func (p *process) said(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(p.errOut)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wait decodes what the node printed.
func (p *process) wait(t *testing.T, into any) {
	t.Helper()
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("node: %v: %s", err, p.said(t))
	}
	if err := json.Unmarshal(p.out.Bytes(), into); err != nil {
		t.Fatalf("node printed %q: %v", p.out.String(), err)
	}
}

// run runs all nodes but those left out, and merges.
func (f *fabric) run(cfg Config, absent ...string) Matrix {
	f.t.Helper()
	cfg.Targets = f.targets()
	var running []*process
	for _, n := range f.nodes {
		if !slices.Contains(absent, n.Name) {
			running = append(running, n.start(f.t, task{Do: "run", Config: cfg}))
		}
	}
	var reports []Report
	for _, p := range running {
		var r Report
		p.wait(f.t, &r)
		reports = append(reports, r)
	}
	return Merge(cfg.Kind, reports)
}

// expect runs all nodes and demands that exactly these pairs fail, the first of them with
// what says contains. Where something is to fail, a run lasts as long as its Wait. It is
// short first, and twice as long each time the verdict is not the wanted one: on a busy
// machine a node says less after a time that suffices on a quiet one.
func (f *fabric) expect(cfg Config, want []string, says string) Matrix {
	f.t.Helper()
	cfg.Wait = long
	if want != nil {
		cfg.Wait = short
	}
	for ; ; cfg.Wait *= 2 {
		m := f.run(cfg)
		asWanted := slices.Equal(failures(m), want) && len(m.Unknown) == 0 && m.OK() == (want == nil) &&
			(says == "" || len(m.Failures) > 0 && strings.Contains(m.Failures[0].Reason, says))
		if !asWanted && cfg.Wait >= long/2 {
			f.t.Errorf("failures %q, unknown %v; want %q and %q: %+v", failures(m), m.Unknown, want, says, m.Failures)
		}
		if asWanted || cfg.Wait >= long/2 {
			return m
		}
	}
}

// failures lists what fails, as "node1 node2 ipip".
func failures(m Matrix) (out []string) {
	for _, f := range m.Failures {
		out = append(out, fmt.Sprintf("%s %s %s", f.From.Name, f.To.Name, f.Check))
	}
	return out
}
