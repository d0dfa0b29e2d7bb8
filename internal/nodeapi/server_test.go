package nodeapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/internal/testwait"
)

func TestMain(m *testing.M) {
	beSomebodyElse()
	goleak.VerifyTestMain(m)
}

// listenHere makes this program a process that listens on a socket and never answers.
const listenHere = "NODEAPI_TEST_LISTEN"

func listenForEver(path string) error {
	if _, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return err
	}
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends, however it does
	return nil
}

// recorder is a Handler that notes its calls; hooks change single answers.
type recorder struct {
	mu      sync.Mutex
	calls   []string
	inside  map[string]int
	overlap bool

	add   func(context.Context, AddRequest) (AddReply, error)
	ready func(context.Context) error
	del   func(context.Context, DelRequest) error
	check func() error
}

func (r *recorder) enter(verb, id string) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, verb+" "+id)
	if r.inside == nil {
		r.inside = map[string]int{}
	}
	r.inside[id]++
	r.overlap = r.overlap || r.inside[id] > 1
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.inside[id]--
	}
}

func (r *recorder) log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.calls...)
}

func (r *recorder) Add(ctx context.Context, req AddRequest) (AddReply, error) {
	defer r.enter("add", req.ContainerID)()
	if r.add != nil {
		return r.add(ctx, req)
	}
	return AddReply{Addrs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}, MTU: 1450}, nil
}

func (r *recorder) Ready(ctx context.Context, req ReadyRequest) error {
	defer r.enter("ready", req.ContainerID)()
	if r.ready != nil {
		return r.ready(ctx)
	}
	return nil
}

func (r *recorder) Abort(_ context.Context, req AddRequest) error {
	defer r.enter("abort", req.ContainerID)()
	return nil
}

func (r *recorder) Del(ctx context.Context, req DelRequest) error {
	defer r.enter("del", req.ContainerID)()
	if r.del != nil {
		return r.del(ctx, req)
	}
	return nil
}

func (r *recorder) Check(_ context.Context, req CheckRequest) error {
	defer r.enter("check", req.ContainerID)()
	if r.check != nil {
		return r.check()
	}
	return nil
}

func (r *recorder) BGP(_ context.Context, req BGPRequest) (json.RawMessage, error) {
	defer r.enter("bgp "+req.What, req.Prefix.String())()
	return json.RawMessage(`{"node":"node1"}`), nil
}

func (r *recorder) Status(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"node":"n1"}`), nil
}

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: the server talks to uid 0 only")
	}
}

// start serves h with short limits and returns the socket and what stops it.
func start(t testing.TB, h Handler, change func(*limits)) (path string, stop func()) {
	t.Helper()
	requireRoot(t)
	dir, err := os.MkdirTemp("", "manx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "run", "manx.sock")
	return path, startAt(t, path, h, change)
}

func startAt(t testing.TB, path string, h Handler, change func(*limits)) (stop func()) {
	t.Helper()
	s := &server{limits: defaultLimits, handler: h, log: slog.New(slog.NewTextHandler(io.Discard, nil)), deferred: DeferredDir(path)}
	s.drain, s.undo = 300*time.Millisecond, time.Second
	if change != nil {
		change(&s.limits)
	}
	before, _ := os.Stat(path)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, path) }()
	eventually(t, "the socket is there", func() bool {
		now, err := os.Stat(path)
		return err == nil && !os.SameFile(before, now)
	})
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	testwait.Until(t, 30*time.Second, what, ok)
}

func endpoint(id string) Endpoint {
	return Endpoint{
		ContainerID: id, Namespace: "default", Pod: "web", IfName: "eth0", NetNS: "/run/netns/x",
		Network: "k8s-pod-network", HostIface: HostIfaceName("default", "web"),
	}
}

func dial(t testing.TB, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func wantCalls(t *testing.T, h *recorder, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("calls %q", want), func() bool { return len(h.log()) >= len(want) })
	if got := h.log(); !reflect.DeepEqual(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
}

func TestHostIfaceName(t *testing.T) {
	if got := HostIfaceName("default", "nginx"); got != "calic440f455693" {
		t.Errorf("got %s, want Calico's name calic440f455693", got)
	}
}

func TestConversations(t *testing.T) {
	h := &recorder{}
	path, stop := start(t, h, nil)
	c := dial(t, path)
	got, err := c.Add(t.Context(), AddRequest{Endpoint: endpoint("a"), IPv4: true})
	if err != nil || got.MTU != 1450 || got.Addrs[0] != netip.MustParseAddr("10.1.2.3") {
		t.Fatalf("add: %+v, %v", got, err)
	}
	if err := c.Ready(t.Context(), ReadyRequest{Endpoint: endpoint("a"), HostIndex: 3}); err != nil {
		t.Fatalf("ready: %v", err)
	}
	if err := dial(t, path).Check(t.Context(), CheckRequest{Endpoint: endpoint("a")}); err != nil {
		t.Errorf("check: %v", err)
	}
	if err := dial(t, path).Del(t.Context(), DelRequest{endpoint("a")}); err != nil {
		t.Errorf("del: %v", err)
	}
	if err := dial(t, path).Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
	raw, err := dial(t, path).Status(t.Context())
	if err != nil || string(raw) != `{"node":"n1"}` {
		t.Errorf("status: %s, %v", raw, err)
	}
	for _, req := range []BGPRequest{{What: BGPPeers}, {What: BGPReceived, Prefix: netip.MustParsePrefix("10.244.0.0/16")}} {
		if raw, err := dial(t, path).BGP(t.Context(), req); err != nil || string(raw) != `{"node":"node1"}` {
			t.Errorf("bgp: %s, %v", raw, err)
		}
	}
	stop()
	wantCalls(t, h, "add a", "ready a", "check a", "del a", "bgp peers invalid Prefix", "bgp received 10.244.0.0/16")
}

func TestUnfinishedAddIsUndone(t *testing.T) {
	readyFails := Errorf(CodeTryAgain, "no route yet")
	for _, tc := range []struct {
		name   string
		change func(*limits)
		ready  error
		client func(*testing.T, *Client)
		want   []string
	}{
		{"killed before ready", nil, nil, func(_ *testing.T, c *Client) { c.Close() }, []string{"add a", "abort a"}},
		{"silent after add", func(l *limits) { l.ready = 20 * time.Millisecond }, nil,
			func(*testing.T, *Client) {}, []string{"add a", "abort a"}},
		{"abort", nil, nil, func(t *testing.T, c *Client) {
			if err := c.Abort(t.Context()); err != nil {
				t.Error(err)
			}
		}, []string{"add a", "abort a"}},
		{"ready refused, then abort", nil, readyFails, func(t *testing.T, c *Client) {
			err := c.Ready(t.Context(), ReadyRequest{Endpoint: endpoint("a")})
			if !reflect.DeepEqual(err, error(readyFails)) {
				t.Errorf("ready: %v", err)
			}
			if err := c.Abort(t.Context()); err != nil {
				t.Error(err)
			}
		}, []string{"add a", "ready a", "abort a"}},
		{"ready refused, then killed", nil, readyFails, func(t *testing.T, c *Client) {
			_ = c.Ready(t.Context(), ReadyRequest{Endpoint: endpoint("a")})
			c.Close()
		}, []string{"add a", "ready a", "abort a"}},
		{"ready of another container", nil, nil, func(t *testing.T, c *Client) {
			if err := c.Ready(t.Context(), ReadyRequest{Endpoint: endpoint("b")}); AsError(err).Code != CodeDecoding {
				t.Errorf("ready: %v", err)
			}
			c.Close()
		}, []string{"add a", "abort a"}},
		{"nonsense after add", nil, nil, func(_ *testing.T, c *Client) { io.WriteString(c.conn, "{\n") }, []string{"add a", "abort a"}},
		{"del on the same connection", nil, nil,
			func(t *testing.T, c *Client) { _ = c.Del(t.Context(), DelRequest{endpoint("a")}) }, []string{"add a", "abort a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := &recorder{ready: func(context.Context) error { return tc.ready }}
			if tc.ready == nil {
				h.ready = nil
			}
			path, _ := start(t, h, tc.change)
			c := dial(t, path)
			if _, err := c.Add(t.Context(), AddRequest{Endpoint: endpoint("a")}); err != nil {
				t.Fatal(err)
			}
			tc.client(t, c)
			wantCalls(t, h, tc.want...)
		})
	}
}

func TestStopUndoesWhatIsUnfinished(t *testing.T) {
	h := &recorder{}
	path, stop := start(t, h, func(l *limits) { l.drain = 20 * time.Millisecond })
	idle := dial(t, path)
	c := dial(t, path)
	if _, err := c.Add(t.Context(), AddRequest{Endpoint: endpoint("a")}); err != nil {
		t.Fatal(err)
	}
	stop()
	wantCalls(t, h, "add a", "abort a")
	if err := idle.Ping(t.Context()); err == nil {
		t.Error("an idle connection outlived the server")
	}
	if _, err := Dial(t.Context(), path); !errors.As(err, new(*UnreachableError)) || AsError(err).Code != CodeTryAgain {
		t.Errorf("dial a stopped agent: %v", err)
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	h := &recorder{}
	path, _ := start(t, h, nil)
	for _, tc := range []struct {
		from error
		want Error
	}{
		{&Error{Code: 11, Msg: "pool full", Details: "10.0.0.0/26"}, Error{11, "pool full", "10.0.0.0/26"}},
		{fmt.Errorf("assign: %w", Errorf(11, "try")), Error{11, "assign: try", ""}},
		{errors.New("plain\nwith a newline"), Error{999, "plain\nwith a newline", ""}},
		{fmt.Errorf("list blocks: %w", context.DeadlineExceeded), Error{11, "list blocks: context deadline exceeded", ""}},
	} {
		h.check = func() error { return tc.from }
		err := dial(t, path).Check(t.Context(), CheckRequest{Endpoint: endpoint("a")})
		var got *Error
		if !errors.As(err, &got) || *got != tc.want {
			t.Errorf("%v: got %+v, want %+v", tc.from, err, tc.want)
		}
	}
}

// A container's requests never overlap; a slow one keeps its client waiting, by
// signs of life, for longer than the client's patience with silence.
func TestSerialisedPerContainer(t *testing.T) {
	release := make(chan struct{})
	h := &recorder{add: func(ctx context.Context, req AddRequest) (AddReply, error) {
		if req.ContainerID == "slow" {
			<-release
		}
		return AddReply{}, nil
	}}
	path, _ := start(t, h, func(l *limits) { l.busy = 50 * time.Millisecond })
	const patience = 500 * time.Millisecond
	adder, deleter := dial(t, path), dial(t, path)
	adder.agent.silence, deleter.agent.silence = patience, patience
	if err := adder.SendAdd(t.Context(), AddRequest{Endpoint: endpoint("slow")}); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, h, "add slow")
	deleted := make(chan error, 1)
	go func() { deleted <- deleter.Del(context.Background(), DelRequest{endpoint("slow")}) }()
	if err := dial(t, path).Del(t.Context(), DelRequest{endpoint("other")}); err != nil {
		t.Fatalf("another container had to wait: %v", err)
	}
	time.AfterFunc(patience+patience/4, func() { close(release) })
	if _, err := adder.RecvAdd(t.Context()); err != nil {
		t.Fatalf("a slow answer was given up: %v", err)
	}
	if err := adder.Ready(t.Context(), ReadyRequest{Endpoint: endpoint("slow")}); err != nil {
		t.Fatal(err)
	}
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	wantCalls(t, h, "add slow", "del other", "ready slow", "del slow")
	if h.overlap {
		t.Error("two calls for one container overlapped")
	}
}

// A process that is stopped is given up after the client's patience, one that runs
// after the whole silence only: it may be waiting for a processor.
func TestHungAgentIsGivenUp(t *testing.T) {
	const patience, silence = 100 * time.Millisecond, 600 * time.Millisecond
	for _, stop := range []bool{false, true} {
		t.Run(fmt.Sprintf("stopped=%v", stop), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			agent, _ := program(t, listenHere, path, "listening")
			c := dial(t, path)
			c.agent.patience, c.agent.silence = patience, silence
			want := fmt.Sprintf("(wait for the answer to del: process %d is stopped)", agent.Process.Pid)
			if stop {
				stopProcess(t, agent.Process)
				c.agent.silence = time.Hour
			} else {
				want = fmt.Sprintf("(wait for the answer to del: process %d sleeps and has said nothing for 600 ms)", agent.Process.Pid)
			}
			begin := time.Now()
			err := c.Del(t.Context(), DelRequest{endpoint("a")})
			if took := time.Since(begin); !errors.As(err, new(*UnreachableError)) ||
				!strings.Contains(err.Error(), want) || !stop && took < silence {
				t.Errorf("after %v: %v; want %q", took, err, want)
			}
		})
	}
}

// A frame that comes in pieces, with more than the client's patience between them.
func TestSlowFrame(t *testing.T) {
	here, there := unixPair(t)
	c := newClient("s", here)
	c.agent.patience = 20 * time.Millisecond
	sent := make(chan error, 1)
	go func() {
		var err error
		for _, part := range []string{`{"bo`, `dy":"st`, `atus"}`, "\n"} {
			time.Sleep(2 * c.agent.patience) //nolint:forbidigo // how long a piece takes is what the test is about
			_, e := io.WriteString(there, part)
			err = errors.Join(err, e)
		}
		sent <- err
	}()
	var got string
	if err := c.recv(t.Context(), opStatus, &got); err != nil || got != "status" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func unixPair(t *testing.T) (here, there *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if here, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if there, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

func TestHostileInput(t *testing.T) {
	h := &recorder{}
	path, _ := start(t, h, func(l *limits) { l.frame = 100 * time.Millisecond })
	long := strings.Repeat("x", maxRequest)
	for _, sent := range []string{
		"\n", "{}\n", "null\n", "[]\n", "\"add\"\n", "{\"op\":1}\n", "{\"op\":\"add\"}\n",
		"{\"op\":\"ready\"}\n", "{\"op\":\"del\",\"body\":[]}\n",
		`{"op":"del","body":{"containerID":"../../etc/passwd","network":"n","ifName":"eth0"}}` + "\n",
		`{"op":"del","body":{"containerID":"a","network":"n","ifName":"a/b"}}` + "\n",
		`{"op":"del","body":{"containerID":"a","network":"n","ifName":"eth0","hostIface":"../x"}}` + "\n",
		`{"op":"add","body":{"containerID":"a","network":"n","ifName":"eth0"}}` + "\n",
		`{"op":"` + long + `"}` + "\n", long + long, "no newline", strings.Repeat("[", 20000) + "\n",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		// The server may answer and close while the rest is still being written.
		_, _ = io.WriteString(conn, sent)
		var r reply
		err = readFrame(bufio.NewReader(conn), maxReply, &r)
		conn.Close()
		if err == nil && r.Error == nil {
			t.Errorf("%.60q was accepted", sent)
		}
	}
	if err := dial(t, path).Ping(t.Context()); err != nil {
		t.Errorf("the server did not survive: %v", err)
	}
	if calls := h.log(); len(calls) != 0 {
		t.Errorf("a handler saw %q", calls)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	h := &recorder{}
	path, _ := start(t, h, func(l *limits) { l.conns = 2 })
	first, second, third := dial(t, path), dial(t, path), dial(t, path)
	answered := make(chan error, 1)
	go func() { answered <- third.Del(context.Background(), DelRequest{endpoint("c")}) }()
	if err := first.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatalf("the waiting one was not served when a place became free: %v", err)
	}
	if err := second.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyRoot(t *testing.T) {
	path, _ := start(t, &recorder{}, nil)
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v (%v)", name, info.Mode().Perm(), want, err)
		}
	}
	// Open the doors, then come as nobody: credentials alone must refuse.
	for name := range map[string]bool{path: true, filepath.Dir(path): true, filepath.Dir(filepath.Dir(path)): true} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread with the other uid ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			got <- errno
			return
		}
		c, err := Dial(context.Background(), path)
		if err == nil {
			err = c.Ping(context.Background())
			c.Close()
		}
		got <- err
	}()
	if err := <-got; err == nil || !strings.Contains(err.Error(), "root only") {
		t.Errorf("uid 65534 got %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	h := &recorder{}
	path, _ := start(t, h, nil)
	dir := filepath.Join(filepath.Dir(filepath.Dir(path)), "killed")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "s")
	for _, name := range []string{stale, stale + ".new"} { // as a killed agent leaves them
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	startAt(t, stale, h, nil)
	if err := dial(t, stale).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("an existing directory kept mode %v", info.Mode())
	}
}
