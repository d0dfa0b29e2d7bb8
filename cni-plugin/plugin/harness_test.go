package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/manx-cni/manx/cni-plugin/internal/nettest"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// binary is the plugin as it is installed, built once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "manx-plugin")
	if err != nil {
		return "", err
	}
	builtIn = dir
	path := filepath.Join(dir, "manx")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/manx-cni/manx/cmd/manx")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the plugin: %w: %s", err, out)
	}
	return path, os.Symlink("manx", filepath.Join(dir, ipamName))
})

var builtIn string

func TestMain(m *testing.M) {
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// fakeAgent is a Handler that does to the node's namespace what the agent does.
type fakeAgent struct {
	t    testing.TB
	node *nettest.Namespace

	mu    sync.Mutex
	held  map[string][]netip.Addr
	calls []string
	next  netip.Addr
	next6 netip.Addr
	mtu   int
	mac   string
	ipv6  bool // beside what is asked for

	keepLinks bool // leave interfaces alone, as an agent that does not know them

	failAdd, failReady, failCheck, failDel error
}

// heldAs is the key of an endpoint's addresses: the container, if it is eth0 of the rig's
// own network.
func heldAs(ep nodeapi.Endpoint) string {
	if id := ep.ID(); !id.Primary() || id.Network != "k8s-pod-network" {
		return id.Handle()
	}
	return ep.ContainerID
}

func (f *fakeAgent) note(verb, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, verb+" "+id)
}

func (f *fakeAgent) addrs(id string) []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held[id]
}

func (f *fakeAgent) Add(_ context.Context, req nodeapi.AddRequest) (nodeapi.AddReply, error) {
	f.note("add", req.ContainerID)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failAdd != nil {
		return nodeapi.AddReply{}, f.failAdd
	}
	if f.held[heldAs(req.Endpoint)] == nil {
		var addrs []netip.Addr
		if req.IPv4 {
			f.next = f.next.Next()
			addrs = append(addrs, f.next)
		}
		if req.IPv6 || f.ipv6 {
			f.next6 = f.next6.Next()
			addrs = append(addrs, f.next6)
		}
		f.held[heldAs(req.Endpoint)] = addrs
	}
	return nodeapi.AddReply{Addrs: f.held[heldAs(req.Endpoint)], MTU: f.mtu, MAC: f.mac}, nil
}

func (f *fakeAgent) Ready(_ context.Context, req nodeapi.ReadyRequest) error {
	f.note("ready", req.ContainerID)
	if f.failReady != nil {
		return f.failReady
	}
	for _, a := range f.addrs(heldAs(req.Endpoint)) {
		err := f.node.Handle.RouteReplace(&netlink.Route{
			LinkIndex: req.HostIndex, Scope: netlink.SCOPE_LINK,
			Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		})
		if err != nil {
			return fmt.Errorf("route %s: %w", a, err)
		}
	}
	return nil
}

func (f *fakeAgent) Abort(_ context.Context, req nodeapi.AddRequest) error {
	if l := f.node.Link(f.t, req.HostIface); l != nil && l.Attrs().Alias == req.Alias() {
		f.t.Errorf("the address of %s is given back while %s exists", req.ContainerID, req.HostIface)
	}
	f.note("abort", req.ContainerID)
	f.release(heldAs(req.Endpoint))
	return nil
}

func (f *fakeAgent) Del(_ context.Context, req nodeapi.DelRequest) error {
	f.note("del", req.ContainerID)
	if f.failDel != nil {
		return f.failDel
	}
	f.release(heldAs(req.Endpoint))
	if f.keepLinks {
		return nil
	}
	links, err := f.node.Handle.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Attrs().Alias == req.Alias() {
			return f.node.Handle.LinkDel(l)
		}
	}
	return nil
}

func (f *fakeAgent) Check(_ context.Context, req nodeapi.CheckRequest) error {
	return f.failCheck
}

func (f *fakeAgent) Status(context.Context) (json.RawMessage, error) { return nil, nil }
func (f *fakeAgent) BGP(context.Context, nodeapi.BGPRequest) (json.RawMessage, error) {
	return nil, nil
}

// blockingAgent holds every Add back until it may go on.
type blockingAgent struct {
	*fakeAgent
	hold chan struct{}
}

func (b *blockingAgent) Add(ctx context.Context, req nodeapi.AddRequest) (nodeapi.AddReply, error) {
	reply, err := b.fakeAgent.Add(ctx, req)
	select {
	case <-b.hold:
	case <-ctx.Done():
	}
	return reply, err
}

func (f *fakeAgent) release(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, id)
}

// rig is a node with an agent and the plugin.
type rig struct {
	t      testing.TB
	node   *nettest.Namespace
	agent  *fakeAgent
	socket string
	stop   func()
	conf   map[string]any
}

func newRig(t testing.TB) *rig {
	t.Helper()
	node := nettest.NewNode(t)
	dir, err := os.MkdirTemp("", "manx-run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{
		t: t, node: node, socket: filepath.Join(dir, "manx.sock"),
		agent: &fakeAgent{
			t: t, node: node, held: map[string][]netip.Addr{}, next: netip.MustParseAddr("10.99.1.0"), next6: netip.MustParseAddr("fd00:99::6"),
		},
	}
	r.conf = map[string]any{
		"name": "k8s-pod-network", "cniVersion": "1.0.0", "type": "manx", "log_level": "info",
		"datastore_type": "kubernetes", "nodename": "n1", "mtu": 0, "socket": r.socket,
		"ipam": map[string]any{"type": "manx-ipam"}, "policy": map[string]any{"type": "k8s"},
	}
	r.start()
	return r
}

// start runs the agent's socket; stop ends it, as a killed agent would be gone.
func (r *rig) start() { r.startWith(r.agent) }

func (r *rig) startWith(h nodeapi.Handler) {
	r.t.Helper()
	before, _ := os.Stat(r.socket)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- nodeapi.Serve(ctx, r.socket, h, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}()
	nettest.Eventually(r.t, "the agent listens", func() bool {
		now, err := os.Stat(r.socket)
		return err == nil && !os.SameFile(before, now)
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(r.stop)
}

// call is one run of the plugin.
type call struct {
	verb, id, pod string
	netns         string
	args          string // CNI_ARGS, made from pod when empty
	prev          *current.Result
	change        map[string]any
}

func (r *rig) command(c call) *exec.Cmd {
	r.t.Helper()
	path, err := binary()
	if err != nil {
		r.t.Fatal(err)
	}
	conf := map[string]any{}
	for _, m := range []map[string]any{r.conf, c.change} {
		for k, v := range m {
			conf[k] = v
		}
	}
	if c.prev != nil {
		conf["prevResult"] = c.prev
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		r.t.Fatal(err)
	}
	if c.args == "" && c.pod != "" {
		c.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + c.pod + ";K8S_POD_INFRA_CONTAINER_ID=" + c.id + ";K8S_POD_UID=u1"
	}
	cmd := exec.Command(path)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = []string{"CNI_COMMAND=" + c.verb, "CNI_CONTAINERID=" + c.id, "CNI_NETNS=" + c.netns,
		"CNI_IFNAME=eth0", "CNI_ARGS=" + c.args, "CNI_PATH=" + filepath.Dir(path)}
	return cmd
}

// run runs the plugin in the node's namespace. The error is the plugin's own.
func (r *rig) run(c call) (*current.Result, *types.Error) {
	r.t.Helper()
	cmd := r.command(c)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var err error
	r.node.Do(r.t, func() { err = cmd.Run() })
	if err != nil {
		if !errors.As(err, new(*exec.ExitError)) {
			r.t.Fatal(err)
		}
		var e types.Error
		if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
			r.t.Fatalf("%s: no CNI error on stdout: %q, stderr %q", c.verb, &stdout, &stderr)
		}
		if strings.ContainsAny(e.Msg, "\n") {
			r.t.Errorf("%s: the message has more than one line: %q", c.verb, e.Msg)
		}
		return nil, &e
	}
	if stderr.Len() > 0 {
		r.t.Logf("%s", &stderr)
	}
	if c.verb != "ADD" {
		if stdout.Len() > 0 {
			r.t.Errorf("%s printed %q", c.verb, &stdout)
		}
		return nil, nil
	}
	result := &current.Result{}
	if err := json.Unmarshal(stdout.Bytes(), result); err != nil {
		r.t.Fatalf("ADD printed %q: %v", &stdout, err)
	}
	return result, nil
}

func (r *rig) mustAdd(id, pod string, ns *nettest.Namespace) *current.Result {
	r.t.Helper()
	result, err := r.run(call{verb: "ADD", id: id, pod: pod, netns: ns.Path})
	if err != nil {
		r.t.Fatalf("ADD %s: %+v", id, err)
	}
	return result
}

func (r *rig) mustDel(id, pod, netns string) {
	r.t.Helper()
	if _, err := r.run(call{verb: "DEL", id: id, pod: pod, netns: netns}); err != nil {
		r.t.Fatalf("DEL %s: %+v", id, err)
	}
}

func (r *rig) wantCalls(want ...string) {
	r.t.Helper()
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	if got := strings.Join(r.agent.calls, ", "); got != strings.Join(want, ", ") {
		r.t.Errorf("the agent was asked %s; want %s", got, strings.Join(want, ", "))
	}
}

// roundTrip connects from the pod to a listener in the node and back.
func (r *rig) roundTrip(pod *nettest.Namespace, to string) error {
	r.t.Helper()
	var l net.Listener
	var err error
	r.node.Do(r.t, func() { l, err = net.Listen("tcp", net.JoinHostPort(to, "0")) })
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.WriteString(conn, conn.RemoteAddr().String())
			conn.Close()
		}
	}()
	pod.Do(r.t, func() {
		var conn net.Conn
		d := net.Dialer{Timeout: 3 * time.Second}
		if conn, err = d.Dial("tcp", l.Addr().String()); err != nil {
			return
		}
		defer conn.Close()
		var seen []byte
		if seen, err = io.ReadAll(conn); err == nil && string(seen) != conn.LocalAddr().String() {
			err = fmt.Errorf("the node saw %s, the pod is %s", seen, conn.LocalAddr())
		}
	})
	return err
}
