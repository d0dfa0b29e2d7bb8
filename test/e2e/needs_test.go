//go:build cluster

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/router"
)

// need is something that a test asks of the lab it runs on.
type need string

// A test that needs nothing of these runs on a light lab of three nodes.
const (
	kubelet     need = "kubelet"      // real kubelets and containerd: DaemonSets, probes, exec, Manx's image
	services    need = "services"     // cluster IPs and NodePorts
	dualStack   need = "dual stack"   // IPv6 beside IPv4
	ipip        need = "ipip"         // the pool in mode Always, and so a kernel with ipip
	crossSubnet need = "cross subnet" // four nodes in two subnets, the pool in mode CrossSubnet

	// Two top-of-rack routers of a make with a host behind them, and two route reflectors.
	bird     need = "bird"
	frr      need = "frr"
	gobgpd   need = "gobgpd"
	openbgpd need = "openbgpd"
)

// kind is a shape of lab. All tests of one kind share a lab.
type kind struct {
	name string
	has  []need
	// shape is what it is made of.
	shape lab.Options
}

// kinds are the labs that there are, the lightest first.
var kinds = []kind{
	{"light", nil, lab.Options{Light: true, Mode: "bgp", Nodes: 3}},
	{"services", []need{services}, lab.Options{Light: true, Mode: "bgp", Nodes: 3, With: []string{lab.KubeProxy}}},
	{"dual", []need{dualStack, services}, lab.Options{Light: true, Mode: "bgp", Nodes: 3, With: []string{lab.KubeProxy}, DualStack: true}},
	// With services, of which one of its tests has need: a lab more in a guest costs more
	// than kube-proxy in this one, which starts when that test asks for it.
	{"ipip", []need{ipip, services}, lab.Options{Light: true, Mode: "ipip", Nodes: 3, With: []string{lab.KubeProxy}, ServicesOnCall: true}},
	{"crosssubnet", []need{ipip, crossSubnet}, lab.Options{Light: true, Mode: "crosssubnet", Nodes: 4, Subnets: 2}},
	{"bird", []need{bird, services}, withServices(withRouters(router.BIRD))},
	{"frr", []need{frr}, withRouters(router.FRR)},
	{"gobgpd", []need{gobgpd}, withRouters(router.GoBGP)},
	{"openbgpd", []need{openbgpd}, withRouters(router.OpenBGPD)},
	{"full", []need{kubelet, services}, lab.Options{Mode: "bgp", Nodes: 3}},
}

// withRouters is a lab of two nodes with two routers and two reflectors of a make.
func withRouters(daemon string) lab.Options {
	return lab.Options{Light: true, Mode: "bgp", Nodes: 2, DualStack: true, ToR: daemon, ToRs: 2, Reflectors: 2}
}

// withServices is a lab with kube-proxy as well.
func withServices(o lab.Options) lab.Options {
	o.With = []string{lab.KubeProxy}
	return o
}

// tunnels reports whether the kind takes a kernel with ipip.
func (k kind) tunnels() bool { return slices.Contains(k.has, ipip) }

// lightest is the first kind that has all of the needs.
func lightest(needs []need) (kind, error) {
	for _, k := range kinds {
		lacks := func(n need) bool { return !slices.Contains(k.has, n) }
		if !slices.ContainsFunc(needs, lacks) {
			return complete(k), nil
		}
	}
	return kind{}, fmt.Errorf("no lab has %v", needs)
}

// complete fills in what a shape leaves to lab.Up, which tests look at.
func complete(k kind) kind {
	if k.shape.Subnets == 0 {
		k.shape.Subnets = 1
	}
	k.shape.MTU = fabric.DefaultMTU
	return k
}

func kindNamed(name string) (kind, error) {
	var names []string
	for _, k := range kinds {
		if k.name == name {
			return complete(k), nil
		}
		names = append(names, k.name)
	}
	return kind{}, fmt.Errorf("no kind of lab is called %q: want one of %s", name, strings.Join(names, ", "))
}

// onLab is the first call of every test: it says what the test needs, and from then on
// cluster, client and shape are those of the lightest lab that has it. The plan of a run
// is read from these calls (see plan_test.go), so the needs are constants.
func onLab(t *testing.T, needs ...need) {
	t.Helper()
	k, err := lightest(needs)
	if err != nil {
		t.Fatal(err)
	}
	if err := theSuite.use(t.Context(), k); err != nil {
		t.Fatalf("a lab with %v: %v", needs, err)
	}
	if k.shape.ServicesOnCall && slices.Contains(needs, services) {
		if err := errors.Join(cluster.StartServices(), servicesServe(t.Context())); err != nil {
			t.Fatalf("Services: %v", err)
		}
	}
	t.Cleanup(func() { theSuite.done(t, k) })
}
