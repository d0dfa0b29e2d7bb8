package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/attachment"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/ipam"
)

// recorder is IPAM and dataplane in one, noting the order of calls.
type recorder struct {
	calls      []string
	held       map[string][]netip.Addr
	request    ipam.Request   // the last one
	endpoint   state.Endpoint // the last one
	failAssign error
	failRemove error
}

func (r *recorder) Assign(_ context.Context, req ipam.Request) ([]netip.Addr, error) {
	r.calls = append(r.calls, "assign "+req.Handle)
	r.request = req
	if r.failAssign != nil {
		return nil, r.failAssign
	}
	r.held[req.Handle] = nil
	if req.Num4 == 1 {
		r.held[req.Handle] = append(r.held[req.Handle], netip.MustParseAddr("10.244.0.1"))
	}
	if req.Num6 == 1 {
		r.held[req.Handle] = append(r.held[req.Handle], netip.MustParseAddr("fd00:10::1"))
	}
	return r.held[req.Handle], nil
}

func (r *recorder) Release(_ context.Context, handle string) ([]netip.Addr, error) {
	r.calls = append(r.calls, "release "+handle)
	delete(r.held, handle)
	return nil, nil
}

func (r *recorder) Held(handle string) []netip.Addr { return r.held[handle] }

func (r *recorder) Interface(handle string) string {
	if handle == handleOf(testEndpoint) {
		return testEndpoint.HostIface
	}
	return ""
}

func (r *recorder) AddEndpoint(_ context.Context, ep state.Endpoint) error {
	r.calls = append(r.calls, "endpoint "+ep.Iface)
	r.endpoint = ep
	return nil
}

func (r *recorder) RemoveEndpoint(_ context.Context, iface, _ string) error {
	r.calls = append(r.calls, "remove "+iface)
	return r.failRemove
}

func (r *recorder) CheckEndpoint(context.Context, string, string) error { return nil }

func newPodAPI() (*podAPI, *recorder) {
	r := &recorder{held: map[string][]netip.Addr{}}
	return &podAPI{
		node: "node1", lookup: func(context.Context, nodeapi.Endpoint) (podMeta, error) { return podMeta{}, nil }, ipam: r,
		dataplane: r, annotate: func(podRecord) {}, mtu: func() int { return 1500 }, ipv6: func() error { return nil },
		status: func() status.Node { return status.Node{Name: "node1"} }, observe: func(string, time.Time, error) {},
	}, r
}

var testEndpoint = nodeapi.Endpoint{ContainerID: "c1", Network: "net", Namespace: "default", Pod: "web", IfName: "eth0", HostIface: "cali1"}

// The route goes before the address: otherwise a new pod could be given an address
// that still leads to the old one.
func TestDelRemovesTheRouteBeforeItReleasesTheAddress(t *testing.T) {
	p, r := newPodAPI()
	if err := p.Del(context.Background(), nodeapi.DelRequest{Endpoint: testEndpoint}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.calls, ", "); got != "remove cali1, release net.c1" {
		t.Fatalf("calls: %s", got)
	}
	r.calls, r.failRemove = nil, errors.New("busy")
	if err := p.Del(context.Background(), nodeapi.DelRequest{Endpoint: testEndpoint}); err == nil {
		t.Fatal("a route that could not be removed was ignored")
	}
	if got := strings.Join(r.calls, ", "); got != "remove cali1" {
		t.Fatalf("the address was released although its route is still there: %s", got)
	}
}

// A runtime that has forgotten the pod's name still has its route removed first.
func TestDelWithoutANameFindsTheInterface(t *testing.T) {
	p, r := newPodAPI()
	nameless := nodeapi.Endpoint{ContainerID: "c1", Network: "net"}
	if err := p.Del(context.Background(), nodeapi.DelRequest{Endpoint: nameless}); err != nil {
		t.Fatal(err)
	}
	nameless.ContainerID = "c2"
	if err := p.Del(context.Background(), nodeapi.DelRequest{Endpoint: nameless}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(r.calls, ", "); got != "remove cali1, release net.c1, release net.c2" {
		t.Fatalf("calls: %s", got)
	}
}

func TestAddThenReady(t *testing.T) {
	p, r := newPodAPI()
	ctx := context.Background()
	reply, err := p.Add(ctx, nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true})
	if err != nil || len(reply.Addrs) != 1 || reply.MTU != 1500 {
		t.Fatalf("Add: %+v, %v", reply, err)
	}
	if err := p.Ready(ctx, nodeapi.ReadyRequest{Endpoint: testEndpoint}); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(ctx, nodeapi.CheckRequest{Endpoint: testEndpoint, Addrs: reply.Addrs}); err != nil {
		t.Fatal(err)
	}
	if err := p.Abort(ctx, nodeapi.AddRequest{Endpoint: testEndpoint}); err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(ctx, nodeapi.ReadyRequest{Endpoint: testEndpoint}); err == nil {
		t.Fatal("a container whose address was released became ready")
	}
	if err := p.Check(ctx, nodeapi.CheckRequest{Endpoint: testEndpoint, Addrs: reply.Addrs}); err == nil {
		t.Fatal("CHECK passed for a container without an address")
	}
	if got := strings.Join(r.calls, ", "); got != "assign net.c1, endpoint cali1, remove cali1, release net.c1" {
		t.Fatalf("calls: %s", got)
	}
}

func TestFullPoolIsRetryableAndSaysHowFull(t *testing.T) {
	p, r := newPodAPI()
	r.failAssign = errors.New("pool 10.244.0.0/16 (default-ipv4-ippool) is full: 1024 of 1024 blocks claimed")
	_, err := p.Add(context.Background(), nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true})
	coded := nodeapi.AsError(err)
	if coded.Code != nodeapi.CodeTryAgain || !strings.Contains(coded.Error(), "1024 of 1024") ||
		!strings.Contains(coded.Error(), "default/web") {
		t.Fatalf("Add: code %d, %v; want code 11 and a message naming pod and pool", coded.Code, err)
	}
}

// What a pod asks for reaches IPAM, and the plugin what IPAM does not decide.
func TestAddPassesTheWishOn(t *testing.T) {
	p, r := newPodAPI()
	p.lookup = func(_ context.Context, e nodeapi.Endpoint) (podMeta, error) {
		return podMeta{
			annotations: map[string]string{
				annotationPools4: `["a", "10.1.0.0/16"]`, annotationPools6: `["b"]`, annotationMAC: "0A:58:00:00:00:09",
			},
			namespaceLabels: map[string]string{"team": e.Namespace},
		}, nil
	}
	reply, err := p.Add(context.Background(), nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true})
	if err != nil || reply.MAC != "0a:58:00:00:00:09" {
		t.Fatalf("Add: %+v, %v", reply, err)
	}
	q := r.request
	if !slices.Equal(q.Pools4, []string{"a", "10.1.0.0/16"}) || !slices.Equal(q.Pools6, []string{"b"}) ||
		q.NamespaceLabels["team"] != "default" || q.Num4 != 1 || q.Num6 != 0 {
		t.Errorf("request %+v", q)
	}
	if a := q.Attrs; a["pod"] != "web" || a["namespace"] != "default" || a["node"] != "node1" || a["timestamp"] == "" {
		t.Errorf("attributes %v", a)
	}

	// Who chose a pool is said when it has nothing.
	r.failAssign = errors.New("pool a is full")
	_, err = p.Add(context.Background(), nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true})
	const want = "assign an address to pod default/web as chosen by the annotation " +
		"cni.projectcalico.org/ipv4pools of its pod: pool a is full"
	if err == nil || err.Error() != want {
		t.Errorf("Add: %v; want %s", err, want)
	}
}

// Without knowing the annotations no address is assigned, and the kubelet is told to
// try again.
func TestAddNeedsTheAnnotations(t *testing.T) {
	p, r := newPodAPI()
	p.lookup = func(context.Context, nodeapi.Endpoint) (podMeta, error) {
		return podMeta{}, errors.New("API server away")
	}
	if _, err := p.Add(context.Background(), nodeapi.AddRequest{
		Endpoint: testEndpoint, IPv4: true,
	}); nodeapi.AsError(err).Code != nodeapi.CodeTryAgain {
		t.Errorf("Add: %v; want code 11", err)
	}
	if len(r.calls) > 0 {
		t.Errorf("calls: %v", r.calls)
	}
}

func TestRefuseUnsupported(t *testing.T) {
	for env, want := range map[string]string{
		"CALICO_NETWORKING_BACKEND=vxlan": "CALICO_NETWORKING_BACKEND",
		"FELIX_NFTABLESMODE=Disabled":     "FELIX_NFTABLESMODE",
		"NODENAME=node1":                  "",
	} {
		settings, _, err := config.Parse([]string{env})
		if err != nil {
			t.Fatal(err)
		}
		err = refuseUnsupported(settings)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", env, err)
		}
	}
}

func TestPodRecordPatch(t *testing.T) {
	r := podRecord{namespace: "default", pod: "web", uid: "u1", containerID: "c1",
		addrs: []netip.Addr{netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("fd00::1")}}
	var got struct {
		Metadata struct {
			UID         string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(r.patch(), &got); err != nil {
		t.Fatal(err)
	}
	a := got.Metadata.Annotations
	if got.Metadata.UID != "u1" || a["cni.projectcalico.org/podIP"] != "10.244.0.1/32" ||
		a["cni.projectcalico.org/podIPs"] != "10.244.0.1/32,fd00::1/128" || a["cni.projectcalico.org/containerID"] != "c1" {
		t.Fatalf("patch %s", r.patch())
	}
}

func TestErrorLogCountsRepeatsAndForgetsTheOldest(t *testing.T) {
	var l errorLog
	for range 3 {
		l.add("ipam", errors.New("conflict"))
	}
	for i := range maxErrors - 1 {
		l.add("cni add", errors.New(string(rune('a'+i))))
	}
	if list := l.list(); len(list) != maxErrors || list[0].Message != "conflict" || list[0].Count != 3 {
		t.Fatalf("%+v", list)
	}
	l.add("bgp", errors.New("new"))
	if list := l.list(); len(list) != maxErrors || list[0].Component == "ipam" || list[maxErrors-1].Component != "bgp" {
		t.Fatalf("%+v", list)
	}
}

// The plugin writes the owner mark, the dataplane reads it. Neither imports the
// other; here they meet.
func TestOwnerMarkIsOne(t *testing.T) {
	written := testEndpoint.Alias()
	id, ok := attachment.ParseAlias(written)
	if !ok || id != testEndpoint.ID() {
		t.Fatalf("the dataplane reads %q as %+v, %t", written, id, ok)
	}
	read := state.Endpoint{Network: id.Network, ContainerID: id.ContainerID, IfName: id.IfName}
	if read.Alias() != written || read.Handle() != handleOf(testEndpoint) {
		t.Fatalf("alias %q, handle %q; the plugin has %q, %q", read.Alias(), read.Handle(), written, handleOf(testEndpoint))
	}
	if name := nodeapi.HostIfaceName("default", "nginx"); name != "calic440f455693" || !strings.HasPrefix(name, state.InterfacePrefix) {
		t.Fatalf("interface %q", name)
	}
}

// Removing everything beside a running agent would only make it write again.
func TestUninstallRefusesBesideAnAgent(t *testing.T) {
	p, _ := newPodAPI()
	socket := filepath.Join(t.TempDir(), "run", "manx.sock")
	removed := 0
	remove := func(context.Context) error { removed++; return nil } //nolint:unparam // uninstall calls what may fail
	try := func() error {
		return uninstall(t.Context(), slog.New(slog.DiscardHandler), socket, false, remove)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- nodeapi.Serve(ctx, socket, p, slog.New(slog.DiscardHandler)) }()
	testwait.Succeeds(t, 30*time.Second, "the agent answers", func() error {
		c, err := nodeapi.Dial(t.Context(), socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err := try(); err == nil || !strings.Contains(err.Error(), "manxctl uninstall") || removed != 0 {
		t.Fatalf("beside an agent: %v, removed %d times", err, removed)
	}
	waited := make(chan error, 1)
	go func() { waited <- uninstall(t.Context(), slog.New(slog.DiscardHandler), socket, true, remove) }()
	select {
	case err := <-waited:
		t.Fatalf("it does not wait for the agent: %v", err)
	case <-time.After(2 * agentGoneEvery): // a pass is right only if nothing happens
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil || removed != 1 {
		t.Fatalf("after the agent: %v, removed %d times", err, removed)
	}
	if err := try(); err != nil || removed != 2 {
		t.Fatalf("once more: %v, removed %d times", err, removed)
	}
}
