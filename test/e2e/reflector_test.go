//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// TestReflectorNode: a node that becomes a route reflector is the only peer of the others,
// which know each other's blocks from it, with their own next hops; and it is a node of the
// mesh again when it is none any more.
func TestReflectorNode(t *testing.T) {
	onLab(t)
	const label = "e2e-reflector"
	nodes := nodeNames(t)
	reflector := nodes[0]
	annotate := func(ctx context.Context, value, labelled string) error {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s},"labels":{%q:%s}}}`, apiv1.AnnotationNodeRouteReflector, value, label, labelled)
		_, err := client.CoreV1().Nodes().Patch(ctx, reflector, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	t.Cleanup(func() {
		ctx := context.Background()
		mesh := map[string]int{nodes[0]: 2, nodes[1]: 2, nodes[2]: 2}
		if err := errors.Join(annotate(ctx, "null", "null"), sessionsAre(ctx, mesh, "Mesh_")); err != nil {
			t.Error(err)
		}
	})
	put(t, apiv1.PluralBGPPeers, "e2e-reflectors", &apiv1.BGPPeer{
		TypeMeta: custom("BGPPeer"), ObjectMeta: metav1.ObjectMeta{Name: "e2e-reflectors"},
		Spec: apiv1.BGPPeerSpec{NodeSelector: "all()", PeerSelector: label + " == 'true'"},
	})
	if err := annotate(t.Context(), `"244.0.0.1"`, `"true"`); err != nil {
		t.Fatal(err)
	}
	// Without the mesh the node peers with both others, which have the one session left.
	withoutMesh(t)
	if err := sessionsAre(t.Context(), map[string]int{nodes[0]: 2, nodes[1]: 1, nodes[2]: 1}, "Node_"); err != nil {
		t.Fatal(err)
	}
	podsReachOneAnother(t)

	// The agents of the reflector and of a client are killed, the reflector's twice: no packet
	// between the clients is lost, and the other client's routes stay as they are.
	m := monitorRoutes(t, nodes[2])
	flows := flowsBetween(t, nodes[1], nodes[2])
	for _, victim := range []string{reflector, reflector, nodes[1]} {
		killAgentOf(t, victim)
		if err := sessionsAre(t.Context(), map[string]int{nodes[0]: 2, nodes[1]: 1, nodes[2]: 1}, "Node_"); err != nil {
			t.Fatal(err)
		}
		sendMore(t, flows[0], rate)
	}
	unhurt(t, flows)
	m.silent(t)
}

// sessionsAre waits until the nodes have so many established sessions and no others, whose
// names all begin like that.
func sessionsAre(ctx context.Context, want map[string]int, prefix string) error {
	for node, n := range want {
		err := until(ctx, fmt.Sprintf("%d sessions %s… of %s", n, prefix, node), func(ctx context.Context) error {
			pod, err := podOn(ctx, "kube-system", "k8s-app=manx-node", node)
			if err != nil {
				return err
			}
			text, err := cluster.Kubectl(ctx, "-n", pod.Namespace, "exec", pod.Name, "-c", "manx-node", "--", "manxctl", "status", "-o", "json")
			if err != nil {
				return err
			}
			all, named := strings.Count(text, `"state": "Established"`), strings.Count(text, `"name": "`+prefix)
			if all != n || named != n {
				return fmt.Errorf("%d are established, %d called so:\n%s", all, named, text)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
