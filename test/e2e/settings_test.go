//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// readiness is what the agent of a node answers, whatever the code.
func readiness(ctx context.Context, node string) (string, error) {
	return cluster.Exec(ctx, node, "curl", "-sS", "http://localhost:9099/readiness")
}

// settingsCondition is the Node's condition ManxSettingsEffective.
func settingsCondition(ctx context.Context, node string) (corev1.NodeCondition, error) {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return corev1.NodeCondition{}, err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == apiv1.ConditionNodeSettings {
			return c, nil
		}
	}
	return corev1.NodeCondition{}, errors.New("no such condition")
}

// TestSettings: a setting of safety that has no effect keeps the nodes from being ready,
// and everything that has none is said; when it is unset, all that goes.
func TestSettings(t *testing.T) {
	onLab(t)
	patch := func(ctx context.Context, plural, spec string) error {
		return patchCR(ctx, plural, "default", `{"spec":`+spec+`}`)
	}
	set := func(plural, spec string) {
		t.Helper()
		if err := patch(t.Context(), plural, spec); err != nil {
			t.Fatal(err)
		}
	}
	const pods = "e2e-pods"
	t.Cleanup(func() {
		if err := errors.Join(patch(context.Background(), apiv1.PluralFelixConfigurations, `{"vxlanPort":null,"ipipMtu":null}`),
			deleteCR(context.Background(), apiv1.PluralBGPPeers, pods)); err != nil {
			t.Error(err)
		}
	})
	set(apiv1.PluralFelixConfigurations, `{"vxlanPort":4790,"ipipMtu":1400}`)
	const lines = "spec.ipipMtu: no such field, ignored; did you mean ipipMTU?; spec.vxlanPort=4790: this version of Manx has no VXLAN"
	for _, node := range nodeNames(t) {
		eventually(t, "the condition of Node "+node, func(ctx context.Context) error {
			c, err := settingsCondition(ctx, node)
			if err == nil && (c.Status != corev1.ConditionFalse || c.Reason != apiv1.ReasonSettingWithoutEffect ||
				!strings.Contains(c.Message, "FelixConfiguration/default: "+lines)) {
				err = fmt.Errorf("%+v", c)
			}
			return err
		})
		if text := manxctl(t, node, "status"); !strings.Contains(text, "No effect     FelixConfiguration/default: "+lines) {
			t.Errorf("manxctl status on %s does not say it:\n%s", node, text)
		}
		if said, err := readiness(t.Context(), node); err != nil || strings.Contains(said, "SettingRefused") {
			t.Errorf("%s is not ready for a setting that does no harm: %v, %s", node, err, said)
		}
	}
	// One Event for all nodes, by manx-controllers, which also makes what calicoctl asks for.
	eventually(t, "one Event on the object", func(ctx context.Context) error {
		list, err := client.EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var notes []string
		for _, e := range list.Items {
			if e.Regarding.Kind == "FelixConfiguration" && strings.Contains(e.Note, lines) {
				notes = append(notes, e.Reason+" by "+e.ReportingController)
			}
		}
		if !slices.Equal(notes, []string{"SettingWithoutEffect by manx.io/manx-controllers"}) {
			return fmt.Errorf("%q", notes)
		}
		return getCR(ctx, apiv1.PluralKubeControllersConfigurations, "default", &apiv1.KubeControllersConfiguration{})
	})
	peer := &apiv1.BGPPeer{TypeMeta: metav1.TypeMeta{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: "BGPPeer"},
		ObjectMeta: metav1.ObjectMeta{Name: pods}, Spec: apiv1.BGPPeerSpec{LocalWorkloadSelector: "all()"}}
	if err := createCR(t.Context(), apiv1.PluralBGPPeers, peer); err != nil {
		t.Fatal(err)
	}
	refused := "SettingRefused: BGPPeer/" + pods + ": spec.localWorkloadSelector=all(): this version of Manx does not peer with pods"
	for _, node := range nodeNames(t) {
		eventually(t, node+" not ready", func(ctx context.Context) error {
			said, err := readiness(ctx, node)
			if err == nil && !strings.Contains(said, refused) {
				err = errors.New(said)
			}
			return err
		})
	}
	if err := deleteCR(t.Context(), apiv1.PluralBGPPeers, pods); err != nil {
		t.Fatal(err)
	}
	set(apiv1.PluralFelixConfigurations, `{"vxlanPort":null,"ipipMtu":null}`)
	for _, node := range nodeNames(t) {
		eventually(t, node+" as before", func(ctx context.Context) error {
			c, err := settingsCondition(ctx, node)
			if err != nil {
				return err
			}
			said, err := readiness(ctx, node)
			if err == nil && (c.Status != corev1.ConditionTrue || strings.Contains(said, "SettingRefused")) {
				err = fmt.Errorf("%+v; readiness %s", c, said)
			}
			return err
		})
	}
}

// TestDatastoreLocked: while datastoreReady is false no pod gets an address, and a pool
// that is away for a while withdraws no route. (Without the lock the same routes go at
// once.)
func TestDatastoreLocked(t *testing.T) {
	onLab(t)
	lock := func(ctx context.Context, ready bool) error {
		return patchCR(ctx, apiv1.PluralClusterInformations, "default", fmt.Sprintf(`{"spec":{"datastoreReady":%t}}`, ready))
	}
	t.Cleanup(func() {
		if err := lock(context.Background(), true); err != nil {
			t.Error(err)
		}
	})
	before := newPod("default", "e2e-before-lock", "node2", podImage)
	createPod(t, before)
	addr := addrOf(t, before)
	// What node1 has of node2: routes by way of it.
	routes := func() []string {
		return lines(on(t, "node1", "ip", "-4", "route", "show", "via", nodeAddr(t, "node2")))
	}
	eventually(t, "a route from node1 to the pod on node2", func(ctx context.Context) error {
		if r := routes(); len(r) == 0 {
			return errors.New("none")
		}
		return nil
	})

	if err := lock(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for _, node := range nodeNames(t) {
		eventually(t, "status of "+node, func(ctx context.Context) error {
			s, err := nodeStatus(ctx, node)
			if err != nil {
				return err
			}
			for _, c := range s.Conditions {
				if c.Type == "DatastoreLocked" {
					return nil
				}
			}
			return fmt.Errorf("conditions %v", s.Conditions)
		})
	}
	want := routes()
	// The migration takes the pool away for a while, without which nothing is learned.
	const name = "default-ipv4-ippool"
	var pool map[string]any
	if err := getCR(t.Context(), apiv1.PluralIPPools, name, &pool); err != nil {
		t.Fatal(err)
	}
	delete(pool, "status")
	maps.DeleteFunc(pool["metadata"].(map[string]any),
		func(k string, _ any) bool { return !slices.Contains([]string{"name", "labels", "annotations"}, k) })
	back := func() error {
		if err := createCR(context.Background(), apiv1.PluralIPPools, pool); !apierrors.IsAlreadyExists(err) {
			return err
		}
		return nil
	}
	t.Cleanup(func() {
		if err := back(); err != nil {
			t.Error(err)
		}
	})
	if err := deleteCR(t.Context(), apiv1.PluralIPPools, name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no pool", func(ctx context.Context) error {
		err := patchCR(ctx, apiv1.PluralIPPools, name, `{"metadata":{"finalizers":null}}`)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is still there"))
	})
	during := newPod("default", "e2e-during-lock", "node2", podImage)
	createPod(t, during)
	refused(t, during, "datastoreReady of ClusterInformation default is false")
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond) //nolint:forbidigo // that nothing changes is seen over a time
		if got := routes(); !slices.Equal(got, want) {
			t.Fatalf("routes of node1 via node2 while the datastore is locked: %q, want %q", got, want)
		}
	}
	pings(t, web(t, "node1"), addr, ttlOtherNode)
	if err := back(); err != nil {
		t.Fatal(err)
	}
	if err := lock(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	addrOf(t, during)
	pings(t, web(t, "node1"), addr, ttlOtherNode)
	deletePod(t, before)
	deletePod(t, during)
}
