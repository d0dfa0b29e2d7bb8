package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	typedappsv1 "k8s.io/client-go/kubernetes/typed/apps/v1"
	clienttesting "k8s.io/client-go/testing"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// installed is the agents' DaemonSet as the manifest has it.
func installed(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	f, err := os.Open("../../manifests/src/30-node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ds appsv1.DaemonSet
	if err := yaml.NewYAMLOrJSONDecoder(f, 4096).Decode(&ds); err != nil || ds.Name != agentDaemonSet {
		t.Fatalf("DaemonSet %q: %v", ds.Name, err)
	}
	return &ds
}

func podOf(app, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: app + "-" + node, Labels: map[string]string{appLabel: app}},
		Spec:       corev1.PodSpec{NodeName: node, HostNetwork: true},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// uninstallLab is a cluster of two nodes whose controllers and kubelets act at once: what
// is stopped has no pods, and the cleaner's pods are as the function says.
func uninstallLab(t *testing.T, cleaned func(*corev1.Pod)) (u uninstaller, out *bytes.Buffer) {
	t.Helper()
	nodes := []string{"node1", "node2"}
	ds := installed(t)
	ds.Status.DesiredNumberScheduled = int32(len(nodes))
	objects := []runtime.Object{
		ds,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: controllersDeployment}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: controllersDeployment}},
		podOf(controllersDeployment, nodes[0]),
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.1"},
		},
	}
	for i, n := range nodes {
		reason := []string{apiv1.ReasonNodeNetworkUp, apiv1.ReasonNodeCNIConfig}[i]
		objects = append(objects, podOf(agentDaemonSet, n), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n, Annotations: map[string]string{
				apiv1.AnnotationNodeIPv4: "172.30.0.11/24", apiv1.AnnotationNodePoolModes: "{}", apiv1.AnnotationNodeAS: "64512", "mine": "1",
			}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: reason},
				{Type: apiv1.ConditionNodeSettings, Status: corev1.ConditionFalse, Reason: apiv1.ReasonSettingWithoutEffect},
				{Type: corev1.NodeReady, Status: corev1.ConditionTrue},
			}},
		})
	}
	client := fake.NewClientset(objects...)
	tracker := client.Tracker()
	podsGVR := corev1.SchemeGroupVersion.WithResource("pods")
	gone := func(app string) {
		for _, n := range nodes {
			_ = tracker.Delete(podsGVR, metav1.NamespaceSystem, app+"-"+n)
		}
	}
	client.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		switch p := a.(clienttesting.PatchAction); p.GetResource().Resource {
		case "deployments":
			gone(p.GetName())
		case "daemonsets":
			if strings.Contains(string(p.GetPatch()), stoppedLabel) {
				gone(p.GetName())
			}
		}
		return false, nil, nil
	})
	client.PrependReactor("create", "daemonsets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		set := a.(clienttesting.CreateAction).GetObject().(*appsv1.DaemonSet)
		set.Status.DesiredNumberScheduled = int32(len(nodes))
		for _, n := range nodes {
			p := podOf(set.Name, n)
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			if cleaned != nil {
				cleaned(p)
			}
			if ready(p) {
				set.Status.NumberReady++
			}
			if err := tracker.Add(p); err != nil {
				t.Error(err)
			}
		}
		return false, nil, nil
	})
	client.PrependReactor("delete", "daemonsets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		gone(a.(clienttesting.DeleteAction).GetName())
		return false, nil, nil
	})
	pool := poolObject("pool", "10.244.0.0/16", "Always", "Never", nil)
	pool.SetFinalizers([]string{"example.org/mine", apiv1.FinalizerPoolInUse})
	gvr := apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools)
	dyn := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{gvr: "IPPoolList"}, pool)
	out = &bytes.Buffer{}
	return uninstaller{client: client, objects: dyn, namespace: metav1.NamespaceSystem, out: out, poll: time.Millisecond}, out
}

func TestUninstall(t *testing.T) {
	u, out := uninstallLab(t, nil)
	ctx := t.Context()
	// Left by a run that was interrupted, before the agents were started again: it says
	// that the nodes are clean.
	stale := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: cleanerDaemonSet, Annotations: map[string]string{"stale": "1"}},
	}
	if _, err := u.client.AppsV1().DaemonSets(u.namespace).Create(ctx, stale, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := u.plan(ctx, &Uninstall{}); err == nil ||
		!strings.Contains(err.Error(), "off 2 nodes, and 1 running pods would lose their network; to do it: manxctl uninstall --yes") {
		t.Errorf("plan: %v", err)
	}
	for range 2 { // it can be repeated
		if err := u.run(ctx, &Uninstall{}); err != nil {
			t.Fatal(err)
		}
	}
	cleaners := 0
	for _, a := range u.client.(*fake.Clientset).Actions() {
		if a.Matches("create", "daemonsets") && a.(clienttesting.CreateAction).GetObject().(*appsv1.DaemonSet).Annotations["stale"] == "" {
			cleaners++
		}
	}
	if cleaners != 2 {
		t.Errorf("two runs cleaned %d times", cleaners)
	}
	for _, want := range []string{
		"manx-controllers are stopped\n", "the agents are stopped\n", "node1 is clean\n", "node2 is clean\n", "kubectl delete -f manx.yaml\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	nodes, err := u.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		if len(n.Annotations) != 2 || n.Annotations["mine"] != "1" || n.Annotations[apiv1.AnnotationNodeAS] != "64512" {
			t.Errorf("%s: annotations %v, want the user's alone", n.Name, n.Annotations)
		}
		if c := n.Status.Conditions; len(c) != 1 || c[0].Type != corev1.NodeReady {
			t.Errorf("%s: conditions %v, want Ready alone", n.Name, c)
		}
	}
	pool, err := u.objects.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools)).Get(ctx, "pool", metav1.GetOptions{})
	if err != nil || !slices.Equal(pool.GetFinalizers(), []string{"example.org/mine"}) {
		t.Errorf("finalizers %v (%v), want the other one alone", pool.GetFinalizers(), err)
	}
	if _, err := u.client.CoordinationV1().Leases(u.namespace).Get(ctx,
		controllersDeployment, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Lease: %v, want it gone", err)
	}
	pods, err := u.client.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("pods left: %v, %v", pods.Items, err)
	}
}

// What is said to be the way back is one. rollout undo (kubectl's polymorphichelpers,
// rollback.go) puts the template of the revision in front of the last in place of the
// present one, and the DaemonSet controller makes a revision for each template.
func TestUninstallHasAWayBack(t *testing.T) {
	u, out := uninstallLab(t, nil)
	ctx, sets := t.Context(), u.client.AppsV1().DaemonSets(u.namespace)
	before := installed(t).Spec.Template
	after := *before.DeepCopy()
	after.Spec.NodeSelector[stoppedLabel] = "true"
	for range 2 { // repeated it makes no second revision
		if err := u.run(ctx, &Uninstall{}); err != nil {
			t.Fatal(err)
		}
		if ds, err := sets.Get(ctx, agentDaemonSet, metav1.GetOptions{}); err != nil || !equality.Semantic.DeepEqual(ds.Spec.Template, after) {
			t.Fatalf("%v, and the template is not the installed one with the selector alone: %+v", err, ds.Spec.Template)
		}
	}
	back := "kubectl -n kube-system rollout undo daemonset/manx-node && kubectl -n kube-system scale deployment/manx-controllers --replicas=1"
	if !strings.Contains(out.String(), "To have Manx again instead: "+back+"\n") {
		t.Errorf("it does not say %q:\n%s", back, out)
	}
	if _, err := agentPods(ctx, u.client, u.namespace); err == nil || !strings.Contains(err.Error(), back) {
		t.Errorf("who looks for agents is told %v; want %q", err, back)
	}
	raw, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	undo := fmt.Sprintf(`{"spec":{"template":{"$patch":"replace",%s}}`, raw[1:])
	unstop := fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:null}}}}}`, stoppedLabel)
	for _, patch := range []struct {
		kind types.PatchType
		text string
	}{{types.StrategicMergePatchType, undo}, {types.MergePatchType, unstop}} {
		if err := u.stopAgents(ctx); err != nil {
			t.Fatal(err)
		}
		ds, err := sets.Patch(ctx, agentDaemonSet, patch.kind, []byte(patch.text), metav1.PatchOptions{})
		if err != nil || stopped(ds) || !equality.Semantic.DeepEqual(ds.Spec.Template, before) {
			t.Errorf("%s does not start the agents: %v", patch.text, err)
		}
	}
}

// impatient is a client that deletes nothing once its context has ended, as a real one,
// and has a deadline for what is left to do then.
type impatient struct{ kubernetes.Interface }

type impatientApps struct{ typedappsv1.AppsV1Interface }

type impatientSets struct{ typedappsv1.DaemonSetInterface }

func (c impatient) AppsV1() typedappsv1.AppsV1Interface { return impatientApps{c.Interface.AppsV1()} }

func (a impatientApps) DaemonSets(namespace string) typedappsv1.DaemonSetInterface {
	return impatientSets{a.AppsV1Interface.DaemonSets(namespace)}
}

func (s impatientSets) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	if _, bounded := ctx.Deadline(); !bounded && ctx.Done() == nil {
		return errors.New("this may take for ever")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.DaemonSetInterface.Delete(ctx, name, opts)
}

// A run that fails or is interrupted, wherever, leaves no cleaner, and names both ways on.
func TestUninstallLeavesNoCleaner(t *testing.T) {
	const undo = "kubectl -n kube-system rollout undo daemonset/manx-node"
	const scale = "kubectl -n kube-system scale deployment/manx-controllers --replicas=1"
	refused := apierrors.NewForbidden(appsv1.Resource("daemonsets"), "", errors.New("not you"))
	for name, tc := range map[string]struct {
		verb, resource string
		stop           bool  // Ctrl-C then
		err            error // the answer then
		answered       bool  // but it is done
		running        bool  // the agents, to the end
		keeps          bool  // the cleaner, because it cannot be deleted
		want           string
	}{
		"interrupted at the first step":       {verb: "patch", resource: "deployments", stop: true},
		"interrupted when the agents stop":    {verb: "patch", resource: "daemonsets", stop: true},
		"interrupted while nodes are cleaned": {verb: "create", resource: "daemonsets", stop: true, want: "node1 (Pending)"},
		"the answer to its creation is lost": {verb: "create", resource: "daemonsets",
			err: errors.New("EOF"), answered: true, want: "create DaemonSet manx-uninstall: EOF"},
		"the controllers cannot be stopped": {verb: "patch", resource: "deployments",
			err: refused, running: true, want: "stop Deployment manx-controllers"},
		"the agents cannot be stopped": {verb: "patch", resource: "daemonsets",
			err: refused, running: true, want: "stop DaemonSet manx-node"},
		"the cleaner of before cannot be gone": {verb: "delete", resource: "daemonsets",
			err: refused, keeps: true, want: "kubectl -n kube-system delete daemonset/manx-uninstall"},
	} {
		t.Run(name, func(t *testing.T) {
			u, _ := uninstallLab(t, func(p *corev1.Pod) { p.Status.Phase, p.Status.Conditions = corev1.PodPending, nil })
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			client := u.client.(*fake.Clientset)
			before := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: cleanerDaemonSet}}
			if err := client.Tracker().Add(before); err != nil {
				t.Fatal(err)
			}
			var how *metav1.DeletionPropagation
			client.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
				if d, ok := a.(clienttesting.DeleteActionImpl); ok && d.Name == cleanerDaemonSet {
					how = d.DeleteOptions.PropagationPolicy
				}
				if !a.Matches(tc.verb, tc.resource) {
					return false, nil, nil
				}
				if tc.stop {
					interrupt()
				}
				if tc.answered {
					if err := client.Tracker().Add(a.(clienttesting.CreateAction).GetObject()); err != nil {
						t.Error(err)
					}
				}
				return tc.err != nil, nil, tc.err
			})
			u.client = impatient{client}
			err := u.run(ctx, &Uninstall{})
			if err == nil || !strings.Contains(err.Error(), tc.want) ||
				!strings.Contains(err.Error(), "repeat the command") || !strings.Contains(err.Error(), scale) {
				t.Errorf("%v; want %q and both ways on", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), undo) == tc.running {
				t.Errorf("%v; want rollout undo if the agents are stopped alone, or they become those of an older version", err)
			}
			_, left := client.AppsV1().DaemonSets(u.namespace).Get(t.Context(), cleanerDaemonSet, metav1.GetOptions{})
			if apierrors.IsNotFound(left) == tc.keeps {
				t.Errorf("the cleaner: %v", left)
			}
			if how == nil || *how != metav1.DeletePropagationForeground {
				t.Errorf("deleted with propagation %v", how)
			}
		})
	}
}

// A cleaner that does not go is explained by its pods: they name the machine.
func TestUninstallNamesWhatHoldsTheCleaner(t *testing.T) {
	u, _ := uninstallLab(t, nil)
	client := u.client.(*fake.Clientset)
	for _, o := range []runtime.Object{
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: u.namespace, Name: cleanerDaemonSet}},
		podOf(cleanerDaemonSet, "node2"),
	} {
		if err := client.Tracker().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	ctx, interrupt := context.WithCancel(t.Context())
	client.PrependReactor("delete", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) {
		interrupt()
		return true, nil, nil // it waits for its pod
	})
	if err := u.removeCleaner(ctx); err == nil || !strings.Contains(err.Error(), "manx-uninstall-node2 on node2 (Running)") {
		t.Errorf("%v; want the pod on node2", err)
	}
}

// A node that cannot be cleaned is named with its reason, and nothing is forgotten.
func TestUninstallFails(t *testing.T) {
	u, _ := uninstallLab(t, func(p *corev1.Pod) {
		if p.Spec.NodeName != "node2" {
			return
		}
		p.Status.Phase, p.Status.Conditions = corev1.PodPending, nil
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{RestartCount: 1, LastTerminationState: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "manx-node: uninstall: read-only file system\n"},
		}}}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := u.client
	// The time is up when the cleaner's pods have been looked at a few times.
	looks := 0
	client.(*fake.Clientset).PrependReactor("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if strings.Contains(a.(clienttesting.ListAction).GetListRestrictions().Labels.String(), cleanerDaemonSet) {
			if looks++; looks == 5 {
				cancel()
			}
		}
		return false, nil, nil
	})
	u.client = impatient{client}
	err := u.run(ctx, &Uninstall{})
	u.client = client
	if _, err := u.client.AppsV1().DaemonSets(u.namespace).Get(t.Context(),
		cleanerDaemonSet, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the cleaner: %v, want it gone after the time is up", err)
	}
	if err == nil ||
		!strings.Contains(err.Error(), "nodes to be cleaned: node2 (failed 2 times, last: manx-node: uninstall: read-only file system)") {
		t.Errorf("%v, want node2 and its reason", err)
	}
	n, err := u.client.CoreV1().Nodes().Get(t.Context(), "node2", metav1.GetOptions{})
	if err != nil || n.Annotations[apiv1.AnnotationNodeIPv4] == "" {
		t.Errorf("node2 was forgotten before it was clean: %v, %v", n.Annotations, err)
	}
	if err := u.client.AppsV1().DaemonSets(u.namespace).Delete(t.Context(), agentDaemonSet, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := u.run(t.Context(), &Uninstall{}); err == nil || !strings.Contains(err.Error(), "create manx.yaml first") {
		t.Errorf("without the DaemonSet: %v", err)
	}
}

// The cleaner has what the work needs, and nothing else of the agents'.
func TestCleaner(t *testing.T) {
	agents := installed(t)
	agents.UID = "5"
	agents.Spec.Template.Spec.NodeSelector[stoppedLabel] = "true" // it runs again
	ds, err := cleanerOf(agents, true)
	if err != nil {
		t.Fatal(err)
	}
	// kubectl delete -f manx.yaml takes it along.
	if o := ds.OwnerReferences; len(o) != 1 ||
		o[0] != (metav1.OwnerReference{APIVersion: "apps/v1", Kind: "DaemonSet", Name: agentDaemonSet, UID: "5"}) {
		t.Errorf("owners %v, want the agents' DaemonSet", o)
	}
	spec := ds.Spec.Template.Spec
	c := spec.InitContainers[0]
	var paths []string
	for _, m := range c.VolumeMounts {
		paths = append(paths, m.MountPath)
	}
	slices.Sort(paths)
	if want := []string{"/host/etc/cni/net.d", "/host/etc/iproute2", "/host/opt/cni/bin", "/var/run/manx"}; !slices.Equal(paths, want) ||
		len(spec.Volumes) != len(want) {
		t.Errorf("mounts %v of %d volumes, want %v", paths, len(spec.Volumes), want)
	}
	if len(c.Env) != 2 || c.Env[0].Name != "CNI_CONF_NAME" || c.Env[1].Name != "GOMEMLIMIT" || c.Command[len(c.Command)-1] != "--pods" {
		t.Errorf("environment %v, command %v", c.Env, c.Command)
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		if c.Resources.Limits.Memory().IsZero() || c.Env[len(c.Env)-1].Name != "GOMEMLIMIT" {
			t.Errorf("container %s: memory limit %s, environment %v", c.Name, c.Resources.Limits.Memory(), c.Env)
		}
	}
	if spec.ServiceAccountName != "" || *spec.AutomountServiceAccountToken || !spec.HostNetwork || len(spec.Tolerations) != 3 {
		t.Errorf("service account %q, token %v, host network %v, tolerations %v",
			spec.ServiceAccountName, *spec.AutomountServiceAccountToken, spec.HostNetwork, spec.Tolerations)
	}
	if len(spec.NodeSelector) != 1 || spec.NodeSelector["kubernetes.io/os"] != "linux" {
		t.Errorf("it selects nodes by %v", spec.NodeSelector)
	}
	agents.Spec.Template.Spec.Containers = nil
	if _, err := cleanerOf(agents, false); err == nil {
		t.Error("made without an image")
	}
}
