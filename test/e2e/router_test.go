//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/router"
)

// behindHost is the host behind the top-of-rack routers.
const behindHost = "behind"

// custom is the type of an object of Calico's API.
func custom(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: kind}
}

// put makes an object of the test's own, or replaces it; it goes when the test ends.
func put(t *testing.T, plural, name string, object any) {
	t.Helper()
	if err := createCR(t.Context(), plural, object); err != nil {
		t.Fatalf("create %s %s: %v", plural, name, err)
	}
	t.Cleanup(func() {
		if err := deleteCR(context.Background(), plural, name); err != nil {
			t.Error(err)
		}
	})
}

// peerWithRouters makes a BGPFilter that lets in the network behind the routers, and a
// BGPPeer for each address of each router, which are named after it: tor1, tor1-6.
func peerWithRouters(t *testing.T, routers []*router.Router, spec apiv1.BGPPeerSpec) {
	t.Helper()
	accept := func(p netip.Prefix) []apiv1.BGPFilterRule {
		return []apiv1.BGPFilterRule{{CIDR: p.String(), MatchOperator: apiv1.MatchEqual, Action: apiv1.FilterAccept}}
	}
	put(t, apiv1.PluralBGPFilters, "e2e-behind", &apiv1.BGPFilter{
		TypeMeta: custom("BGPFilter"), ObjectMeta: metav1.ObjectMeta{Name: "e2e-behind"},
		Spec: apiv1.BGPFilterSpec{ImportV4: accept(fabric.BehindNet()), ImportV6: accept(fabric.BehindNet6())},
	})
	for i, r := range routers {
		for _, a := range []netip.Addr{r.Addr, r.Addr6} {
			if !a.IsValid() {
				continue
			}
			name, as := r.Name, apiv1.ASNumber(lab.ToRAS+uint32(i))
			if a.Is6() {
				name += "-6"
			}
			s := spec
			s.PeerIP, s.ASNumber, s.Filters = a.String(), &as, []string{"e2e-behind"}
			put(t, apiv1.PluralBGPPeers, name, &apiv1.BGPPeer{
				TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: s,
			})
		}
	}
}

// peerWithReflectors makes a BGPPeer for each address of each reflector.
func peerWithReflectors(t *testing.T, reflectors []*router.Router, spec apiv1.BGPPeerSpec) {
	t.Helper()
	as := apiv1.ASNumber(lab.ClusterAS)
	for _, r := range reflectors {
		for _, a := range []netip.Addr{r.Addr, r.Addr6} {
			name := strings.ReplaceAll("rr-"+a.String(), ":", "-")
			s := spec
			s.PeerIP, s.ASNumber = a.String(), &as
			put(t, apiv1.PluralBGPPeers, name, &apiv1.BGPPeer{
				TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: s,
			})
		}
	}
}

// routersOf are the lab's top-of-rack routers, and its route reflectors.
func routersOf(t *testing.T) (routers, reflectors []*router.Router) {
	t.Helper()
	all, err := cluster.Routers()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if strings.HasPrefix(r.Name, "tor") {
			routers = append(routers, r)
		} else {
			reflectors = append(reflectors, r)
		}
	}
	return routers, reflectors
}

// withoutMesh turns the node-to-node mesh off until the test ends.
func withoutMesh(t *testing.T) {
	t.Helper()
	mesh := func(ctx context.Context, on bool) error {
		return patchCR(ctx, apiv1.PluralBGPConfigurations, "default", fmt.Sprintf(`{"spec":{"nodeToNodeMeshEnabled":%t}}`, on))
	}
	if err := mesh(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(mesh(context.Background(), true), cluster.WaitReady(context.Background())); err != nil {
			t.Error(err)
		}
	})
}

// podsReachOneAnother waits until every web pod reaches every other by both families, and
// the node's route leads to the other node itself.
func podsReachOneAnother(t *testing.T) {
	t.Helper()
	for _, from := range nodeNames(t) {
		for _, to := range nodeNames(t) {
			if from == to {
				continue
			}
			for _, ip := range web(t, to).Status.PodIPs {
				a, hop := netip.MustParseAddr(ip.IP), netip.MustParseAddr(nodeAddr(t, to))
				if a.Is6() {
					hop = fabric.Addr6(hop)
				}
				eventually(t, fmt.Sprintf("%s of %s from a pod of %s", a, to, from), func(ctx context.Context) error {
					if got := nextHops(t, from, blockOf(a)); !slices.Equal(got, []string{hop.String()}) {
						return fmt.Errorf("its block is by way of %v, want %s", got, hop)
					}
					_, err := execIn(ctx, web(t, from), "ping", "-c", "1", "-W", "1", a.String())
					return err
				})
			}
		}
	}
}

// nodeAddrs are the addresses of all nodes of both families.
func nodeAddrs(t *testing.T) (addrs []netip.Addr) {
	t.Helper()
	for _, n := range nodeNames(t) {
		a := netip.MustParseAddr(nodeAddr(t, n))
		addrs = append(addrs, a, fabric.Addr6(a))
	}
	return addrs
}

// established waits until every router has a session with every node.
func established(t *testing.T, routers []*router.Router) {
	t.Helper()
	for _, r := range routers {
		if err := r.WaitEstablished(t.Context(), nodeAddrs(t)...); err != nil {
			t.Fatal(err)
		}
	}
}

// nextHops are the next hops of a node's route, by ip-route(8).
func nextHops(t *testing.T, node string, to netip.Prefix) (hops []string) {
	t.Helper()
	for _, line := range strings.Split(on(t, node, "ip", "-o", "-"+strings.TrimPrefix(family.Of(to.Addr()).String(), "IPv"), "route", "show",
		to.String(), "proto", "70"), "\n") {
		words := strings.Fields(line)
		for i, w := range words {
			if w == "via" {
				hops = append(hops, words[i+1])
			}
		}
	}
	slices.Sort(hops)
	return hops
}

// reachedFromBehind waits until the host behind the routers gets the pages of all web pods.
func reachedFromBehind(t *testing.T) {
	t.Helper()
	for _, node := range nodeNames(t) {
		pod := web(t, node)
		for _, ip := range pod.Status.PodIPs {
			page := fetch(behindHost, "http://"+netip.AddrPortFrom(netip.MustParseAddr(ip.IP), 80).String()+"/hostname")
			eventually(t, fmt.Sprintf("%s of %s from behind the routers", ip.IP, node), func(ctx context.Context) error {
				got, err := page(ctx)
				if err == nil && strings.TrimSpace(got) != pod.Name {
					err = fmt.Errorf("the page is %q", got)
				}
				return err
			})
		}
	}
}

// checkRouters is what holds with every daemon: sessions of both families with all nodes,
// the nodes' blocks at the routers, by way of their nodes, the network behind the routers
// in the nodes' kernels, by way of both, and nothing else of what they announce.
func checkRouters(t *testing.T) {
	t.Helper()
	routers, reflectors := routersOf(t)
	peerWithRouters(t, routers, apiv1.BGPPeerSpec{})
	established(t, routers)
	for _, node := range nodeNames(t) {
		pod := web(t, node)
		for _, ip := range pod.Status.PodIPs {
			a := netip.MustParseAddr(ip.IP)
			own := netip.MustParseAddr(nodeAddr(t, node))
			if a.Is6() {
				own = fabric.Addr6(own)
			}
			block := blockOf(a)
			for _, r := range routers {
				paths, err := r.WaitRoute(t.Context(), block)
				if err != nil {
					t.Fatal(err)
				}
				if len(paths) != 1 || paths[0].NextHop != own || !slices.Equal(paths[0].ASPath, []uint32{lab.ClusterAS}) {
					t.Errorf("%s (%s) has %s as %+v, want it by way of %s through AS %d", r.Name, r.Daemon, block, paths, own, lab.ClusterAS)
				}
			}
		}
		for _, to := range []netip.Prefix{fabric.BehindNet(), fabric.BehindNet6()} {
			var want []string
			for _, r := range routers {
				if to.Addr().Is4() {
					want = append(want, r.Addr.String())
				} else {
					want = append(want, r.Addr6.String())
				}
			}
			slices.Sort(want)
			eventually(t, fmt.Sprintf("%s on %s by way of %v", to, node, want), func(context.Context) error {
				if got := nextHops(t, node, to); !slices.Equal(got, want) {
					return fmt.Errorf("by way of %v", got)
				}
				return nil
			})
		}
	}
	if router.Forwards(routers[0].Daemon) {
		reachedFromBehind(t)
		inPod(t, web(t, nodeNames(t)[0]), "ping", "-c", "1", "-W", "2", fabric.BehindAddr().String())
	}

	// As reflectors, with no other session between the nodes.
	peerWithReflectors(t, reflectors, apiv1.BGPPeerSpec{})
	established(t, reflectors)
	withoutMesh(t)
	for _, node := range nodeNames(t) {
		eventually(t, node+" without the mesh", func(context.Context) error {
			if text := manxctl(t, node, "status", "-o", "json"); strings.Contains(text, `"name": "Mesh_`) {
				return errors.New(text)
			}
			return nil
		})
	}
	podsReachOneAnother(t)
}

// blockOf is the block of Manx's default size that an address is in.
func blockOf(a netip.Addr) netip.Prefix {
	bits := 26
	if a.Is6() {
		bits = 122
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// TestBIRD, TestFRR, TestGoBGP and TestOpenBGPD: the daemons as top-of-rack routers.
func TestBIRD(t *testing.T) {
	onLab(t, bird)
	checkRouters(t)
}

func TestFRR(t *testing.T) {
	onLab(t, frr)
	checkRouters(t)
}

func TestGoBGP(t *testing.T) {
	onLab(t, gobgpd)
	checkRouters(t)
}

func TestOpenBGPD(t *testing.T) {
	onLab(t, openbgpd)
	checkRouters(t)
}

// TestRoutersAlone: without a mesh nodes learn of each other by their two routers, and when
// one of these is killed the routes through it go, and traffic takes the other one.
func TestRoutersAlone(t *testing.T) {
	onLab(t, bird)
	routers, _ := routersOf(t)
	once := int32(1) // the nodes' own AS, in the other nodes' paths
	peerWithRouters(t, routers, apiv1.BGPPeerSpec{NumAllowedLocalASNumbers: &once})
	established(t, routers)
	withoutMesh(t)
	podsReachOneAnother(t)
	reachedFromBehind(t)
	if err := routers[0].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := routers[0].Start(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, node := range nodeNames(t) {
		eventually(t, node+" without the router that died", func(context.Context) error {
			if got := nextHops(t, node, fabric.BehindNet()); !slices.Equal(got, []string{routers[1].Addr.String()}) {
				return fmt.Errorf("by way of %v", got)
			}
			return nil
		})
		if said, err := readiness(t.Context(), node); err != nil || strings.Contains(said, "NoBGPSession") {
			t.Errorf("%s is not ready with one of two routers: %v, %s", node, err, said)
		}
	}
	reachedFromBehind(t)
}

// TestRouterPassword: sessions with a password come up when both ends have it, and stay
// down, with the reason, while it cannot be read: no session is opened without.
func TestRouterPassword(t *testing.T) {
	onLab(t, bird)
	routers, _ := routersOf(t)
	r := routers[0]
	const name, key = "bgp-secrets", "e2e"
	secrets := client.CoreV1().Secrets(datastore.SecretNamespace)
	t.Cleanup(func() {
		if err := secrets.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	config := func(password string) router.Config {
		c := router.Config{
			AS: lab.ToRAS, PeerAS: lab.ClusterAS, Password: password, Announce: []netip.Prefix{fabric.BehindNet(), fabric.BehindNet6()},
		}
		for _, a := range nodeAddrs(t) {
			c.Ranges = append(c.Ranges, netip.PrefixFrom(a, a.BitLen()))
		}
		return c
	}
	plain := router.Config{
		AS: lab.ToRAS, PeerAS: lab.ClusterAS, Announce: []netip.Prefix{fabric.BehindNet(), fabric.BehindNet6()},
		Ranges: []netip.Prefix{fabric.Subnet(1), fabric.Subnet6(1)},
	}
	t.Cleanup(func() {
		if err := r.Reconfigure(context.Background(), plain); err != nil {
			t.Error(err)
		}
	})
	password := &apiv1.BGPPassword{SecretKeyRef: &apiv1.SecretKeySelector{Name: name, Key: key}}
	peerWithRouters(t, []*router.Router{r}, apiv1.BGPPeerSpec{Password: password})
	for _, node := range nodeNames(t) {
		eventually(t, "why the session of "+node+" is down", func(context.Context) error {
			const want = "BGPSessionHeld: BGPPeer tor1: password: secret kube-system/bgp-secrets not found"
			if text := manxctl(t, node, "status"); !strings.Contains(text, want) {
				return errors.New(text)
			}
			return nil
		})
	}
	none := func(ctx context.Context) error {
		sessions, err := r.Sessions(ctx)
		for _, a := range nodeAddrs(t) {
			if err == nil && sessions[a].Established {
				err = fmt.Errorf("there is one with %s", a)
			}
		}
		return err
	}
	if err := none(t.Context()); err != nil {
		t.Errorf("no session without the password: %v", err)
	}
	if err := r.Reconfigure(t.Context(), config("first")); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{key: "first"}}
	if _, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	established(t, []*router.Router{r})

	// The password changes, on both ends, one after the other.
	secret.StringData[key] = "second"
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no session with the old password", none)
	if err := r.Reconfigure(t.Context(), config("second")); err != nil {
		t.Fatal(err)
	}
	established(t, []*router.Router{r})
	for _, node := range nodeNames(t) {
		if text := manxctl(t, node, "status"); strings.Contains(text, "second") {
			t.Errorf("the password stands in the status of %s:\n%s", node, text)
		}
	}
}
