package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/progress"
)

// Names of manifests/manx.yaml, and of what uninstall adds to them for a while.
const (
	agentDaemonSet        = "manx-node"
	controllersDeployment = "manx-controllers" // and the Lease that it holds
	cleanerDaemonSet      = "manx-uninstall"
	appLabel              = "k8s-app"
	// stoppedLabel is what the agents' DaemonSet selects nodes by once it is stopped.
	// No node has it.
	stoppedLabel = "manx.io/uninstalled"
	// cleanupTimeout is how long a run that has failed may take to end.
	cleanupTimeout = 10 * time.Second
)

// stopped tells whether the agents' DaemonSet is.
func stopped(ds *appsv1.DaemonSet) bool {
	_, has := ds.Spec.Template.Spec.NodeSelector[stoppedLabel]
	return has
}

// wayBack starts stopped agents again, and the controllers. The revision in front of the
// stopped one has no stoppedLabel, however often uninstall is repeated: to stop what is
// stopped makes no revision.
func wayBack(namespace string) string {
	return fmt.Sprintf("kubectl -n %s rollout undo daemonset/%s && %s", namespace, agentDaemonSet, startControllers(namespace))
}

func startControllers(namespace string) string {
	return fmt.Sprintf("kubectl -n %s scale deployment/%s --replicas=1", namespace, controllersDeployment)
}

// unstop starts stopped agents whatever the revisions are: an applied manifest that has
// changed is a stopped revision, too.
func unstop(namespace string) string {
	return fmt.Sprintf(`kubectl -n %s patch daemonset/%s --type merge -p '{"spec":{"template":{"spec":{"nodeSelector":{%q:null}}}}}'`,
		namespace, agentDaemonSet, stoppedLabel)
}

func newUninstallCommand(c *connection) *cobra.Command {
	u := uninstaller{poll: time.Second}
	var o output
	var yes bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "uninstall --yes",
		Short: "Take Manx off every node, without a reboot",
		Long: `Take Manx off every node, without a reboot: the agents are stopped, and a pod on
each node (DaemonSet manx-uninstall) removes the CNI configuration and plugins, the
routes, the nftables tables, the address of tunl0 and Manx's files. Then the agents'
annotations and conditions go from the Nodes, the conditions from the namespaces, and
the finalizers from the pools, so that

    kubectl delete -f manx.yaml

removes everything else without waiting for anybody. What belongs to others on the
nodes stays. Pods that run keep their interfaces and lose their network; they need
another network plugin and a restart, or Manx again. --pods removes the interfaces.

A node that cannot be reached is named; the command waits for it (--timeout). It
can be repeated, and goes on where it was. When it fails or is interrupted it takes
DaemonSet manx-uninstall away. Without --yes it says what would happen. With -o json or
yaml the steps are told on standard error.

The way back, until the objects are deleted:

    kubectl -n kube-system rollout undo daemonset/manx-node
    kubectl -n kube-system scale deployment/manx-controllers --replicas=1

kubectl apply -f manx.yaml does not start stopped agents. Where it was run with a
changed manx.yaml rollout undo does not start them either, and this does:

    kubectl -n kube-system patch daemonset/manx-node --type merge \
        -p '{"spec":{"template":{"spec":{"nodeSelector":{"manx.io/uninstalled":null}}}}}'

Needs a kubeconfig that may do all that: cluster-admin, in practice.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.userConfig()
			if err != nil {
				return fmt.Errorf("uninstall: %w", err)
			}
			if u.client, err = kubernetes.NewForConfig(cfg); err != nil {
				return err
			}
			if u.objects, err = dynamic.NewForConfig(cfg); err != nil {
				return err
			}
			u.out = cmd.OutOrStdout()
			if !o.forPeople() {
				u.out = cmd.ErrOrStderr()
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			var done Uninstall
			if yes {
				err = u.run(ctx, &done)
			} else {
				err = u.plan(ctx, &done)
			}
			if err != nil {
				err = fmt.Errorf("uninstall: %w", err)
			}
			return errors.Join(err, o.print(cmd.OutOrStdout(), done, func(io.Writer) error { return nil }))
		},
	}
	f := cmd.Flags()
	namespaceFlag(f, &u.namespace)
	o.add(f)
	f.BoolVar(&yes, "yes", false, "do it")
	f.BoolVar(&u.pods, "pods", false, "remove the interfaces of running pods, too")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "how long nodes are waited for")
	return c.uses(cmd)
}

// uninstaller takes Manx off a cluster. Each of its steps can be repeated: the agents'
// DaemonSet, which tells how the nodes' directories are mounted, is kept to the end.
type uninstaller struct {
	client    kubernetes.Interface
	objects   dynamic.Interface
	namespace string
	pods      bool
	out       io.Writer
	poll      time.Duration
}

func (u uninstaller) say(format string, args ...any) { fmt.Fprintf(u.out, format+"\n", args...) }

// plan says what run would do, and fails.
func (u uninstaller) plan(ctx context.Context, done *Uninstall) error {
	ds, err := u.agents(ctx)
	if err != nil {
		return err
	}
	pods, err := u.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	onNetwork := 0
	for _, p := range pods.Items {
		if !p.Spec.HostNetwork && p.Status.PodIP != "" && p.Status.Phase == corev1.PodRunning {
			onNetwork++
		}
	}
	done.Nodes, done.PodsWithoutNetwork = int(ds.Status.DesiredNumberScheduled), onNetwork
	return fmt.Errorf("nothing was changed: Manx would be taken off %d nodes, and %d running pods would lose their network; "+
		"to do it: manxctl uninstall --yes",
		ds.Status.DesiredNumberScheduled, onNetwork)
}

// agents returns the agents' DaemonSet.
func (u uninstaller) agents(ctx context.Context) (*appsv1.DaemonSet, error) {
	ds, err := u.client.AppsV1().DaemonSets(u.namespace).Get(ctx, agentDaemonSet, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no DaemonSet %s in namespace %s, which says how nodes are to be cleaned: "+
			"create manx.yaml first, also where it was deleted too early", agentDaemonSet, u.namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("read DaemonSet %s: %w", agentDaemonSet, err)
	}
	return ds, nil
}

func (u uninstaller) run(ctx context.Context, done *Uninstall) error {
	ds, err := u.agents(ctx)
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		u.stopControllers,
		u.stopAgents,
		func(ctx context.Context) error { return u.cleanNodes(ctx, ds, done) },
		u.forgetNodes,
		u.forgetNamespaces,
		u.freePools,
	} {
		if err := step(ctx); err != nil {
			return u.failed(ctx, err)
		}
	}
	done.Done = true
	u.say("Manx is off every node. What is left are objects of the cluster, its pools among them: kubectl delete -f manx.yaml")
	u.say("To have Manx again instead: %s", wayBack(u.namespace))
	return nil
}

// failed ends a run that does not go on, also one that was interrupted: no cleaner stays,
// which would clean nodes where the agents run again, and the ways on are in the error.
func (u uninstaller) failed(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if left := u.deleteCleaner(ctx); left != nil {
		err = fmt.Errorf("%w; and %w: do that before agents are started again, "+
			"or it takes Manx off their nodes: kubectl -n %s delete daemonset/%s", err, left, u.namespace, cleanerDaemonSet)
	}
	back := startControllers(u.namespace)
	// Where the agents are not stopped, rollout undo would make them those of an older version.
	if ds, unread := u.agents(ctx); unread == nil && stopped(ds) {
		back = wayBack(u.namespace)
	}
	return fmt.Errorf("%w; what is done stays done: repeat the command, or have Manx again: %s", err, back)
}

// stopControllers ends manx-controllers, which would put finalizers on pools again.
func (u uninstaller) stopControllers(ctx context.Context) error {
	_, err := u.client.AppsV1().Deployments(u.namespace).Patch(ctx, controllersDeployment,
		types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("stop Deployment %s: %w", controllersDeployment, err)
	}
	if err := u.awaitNoPods(ctx, controllersDeployment); err != nil {
		return err
	}
	err = u.client.CoordinationV1().Leases(u.namespace).Delete(ctx, controllersDeployment, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Lease %s: %w", controllersDeployment, err)
	}
	u.say("manx-controllers are stopped")
	return nil
}

// stopAgents sends the agents away and keeps their DaemonSet.
func (u uninstaller) stopAgents(ctx context.Context) error {
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:"true"}}}}}`, stoppedLabel)
	if _, err := u.client.AppsV1().DaemonSets(u.namespace).Patch(ctx, agentDaemonSet,
		types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("stop DaemonSet %s: %w", agentDaemonSet, err)
	}
	if err := u.awaitNoPods(ctx, agentDaemonSet); err != nil {
		return err
	}
	u.say("the agents are stopped")
	return nil
}

// awaitNoPods waits until the last pod of the app has gone.
func (u uninstaller) awaitNoPods(ctx context.Context, app string) error {
	return u.await(ctx, func() (string, error) { return u.podsLeft(ctx, app) })
}

// podsLeft names the pods of the app.
func (u uninstaller) podsLeft(ctx context.Context, app string) (string, error) {
	pods, err := u.client.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: appLabel + "=" + app})
	if err != nil || len(pods.Items) == 0 {
		return "", err
	}
	var left []string
	for _, p := range pods.Items {
		left = append(left, fmt.Sprintf("%s on %s (%s)", p.Name, p.Spec.NodeName, p.Status.Phase))
	}
	return "to end: " + strings.Join(left, ", "), nil
}

// await calls look until it waits for nothing. Its last word is in the error, and what
// a user can do.
func (u uninstaller) await(ctx context.Context, look func() (waitsFor string, err error)) error {
	last := errors.New("the API server to answer")
	var waits clause
	waits.set("waits for " + last.Error())
	defer progress.Wait(ctx, &waits, "")()
	for {
		waitsFor, err := look()
		switch {
		case err != nil && ctx.Err() == nil:
			last = err
		case err == nil && waitsFor == "":
			return nil
		case err == nil:
			last = errors.New(waitsFor)
		}
		waits.set("waits for " + last.Error())
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting for %w; for a machine that is gone: kubectl delete node NAME", last)
		case <-time.After(u.poll):
		}
	}
}

// cleanNodes runs `manx-node uninstall` on every node.
func (u uninstaller) cleanNodes(ctx context.Context, agents *appsv1.DaemonSet, done *Uninstall) error {
	sets := u.client.AppsV1().DaemonSets(u.namespace)
	cleaner, err := cleanerOf(agents, u.pods)
	if err != nil {
		return err
	}
	// One that an earlier run left behind has cleaned before the agents ran last.
	if err := u.removeCleaner(ctx); err != nil {
		return err
	}
	if _, err := sets.Create(ctx, cleaner, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create DaemonSet %s: %w", cleanerDaemonSet, err)
	}
	clean := map[string]bool{}
	err = u.await(ctx, func() (string, error) { return u.cleaning(ctx, clean) })
	done.Clean = slices.Sorted(maps.Keys(clean))
	done.Nodes = max(done.Nodes, len(clean))
	if err != nil {
		return err
	}
	return u.removeCleaner(ctx)
}

// removeCleaner returns when the cleaner is gone, and its pods.
func (u uninstaller) removeCleaner(ctx context.Context) error {
	if err := u.deleteCleaner(ctx); err != nil {
		return err
	}
	return u.await(ctx, func() (string, error) {
		// The DaemonSet waits for its pods. They say which node is in the way.
		if left, err := u.podsLeft(ctx, cleanerDaemonSet); err != nil || left != "" {
			return left, err
		}
		_, err := u.client.AppsV1().DaemonSets(u.namespace).Get(ctx, cleanerDaemonSet, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		return "DaemonSet " + cleanerDaemonSet + " to go", err
	})
}

// deleteCleaner deletes the cleaner and waits for nothing. It starts no pod from then on.
func (u uninstaller) deleteCleaner(ctx context.Context) error {
	foreground := metav1.DeletePropagationForeground
	err := u.client.AppsV1().DaemonSets(u.namespace).Delete(ctx, cleanerDaemonSet, metav1.DeleteOptions{PropagationPolicy: &foreground})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete DaemonSet %s: %w", cleanerDaemonSet, err)
	}
	return nil
}

// cleaning says of each node when it is clean, and returns which are not yet.
func (u uninstaller) cleaning(ctx context.Context, clean map[string]bool) (string, error) {
	ds, err := u.client.AppsV1().DaemonSets(u.namespace).Get(ctx, cleanerDaemonSet, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	pods, err := u.client.CoreV1().Pods(u.namespace).List(ctx, metav1.ListOptions{LabelSelector: appLabel + "=" + cleanerDaemonSet})
	if err != nil {
		return "", err
	}
	var left []string
	for _, p := range pods.Items {
		switch node := p.Spec.NodeName; {
		case clean[node]:
		case ready(&p):
			clean[node] = true
			u.say("%s is clean", node)
		default:
			left = append(left, node+" ("+doing(&p)+")")
		}
	}
	if len(left) > 0 {
		slices.Sort(left)
		return "nodes to be cleaned: " + strings.Join(left, ", "), nil
	}
	if s := ds.Status; s.ObservedGeneration < ds.Generation || s.DesiredNumberScheduled == 0 || s.NumberReady < s.DesiredNumberScheduled {
		return fmt.Sprintf("nodes to be cleaned: %d of %d are", s.NumberReady, s.DesiredNumberScheduled), nil
	}
	return "", nil
}

func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// doing is what a pod of the cleaner is at: why it failed last, or its phase.
func doing(p *corev1.Pod) string {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		for _, s := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			if t := s.Terminated; t != nil && t.ExitCode != 0 {
				return fmt.Sprintf("failed %d times, last: %s", c.RestartCount+1, strings.TrimSpace(t.Message))
			}
		}
		if w := c.State.Waiting; w != nil && w.Message != "" {
			return w.Reason + ": " + w.Message
		}
	}
	return string(p.Status.Phase)
}

// tokenDir is where a container finds its account's token.
const tokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// cleanerOf is a DaemonSet that runs `manx-node uninstall` on each node that an agent
// was on, once, with the agents' image and their mounts of the node's directories. It
// has no credential and, unlike init-host, no privilege but NET_ADMIN. It goes with the
// agents' DaemonSet: one that a killed run left would clean nodes of the next installation.
func cleanerOf(agents *appsv1.DaemonSet, pods bool) (*appsv1.DaemonSet, error) {
	from := agents.Spec.Template.Spec
	var image string
	var pull corev1.PullPolicy
	var env []corev1.EnvVar
	var mounts []corev1.VolumeMount
	mounted := map[string]bool{}
	for _, c := range slices.Concat(from.InitContainers, from.Containers) {
		switch c.Name {
		case agentContainer:
			image, pull = c.Image, c.ImagePullPolicy
		case "install-cni":
			for _, e := range c.Env {
				if e.Name == "CNI_CONF_NAME" {
					env = append(env, e)
				}
			}
		case "init-host":
		default: // what others have mounted is not to be cleaned
			continue
		}
		for _, m := range c.VolumeMounts {
			// What covers a token is not of the node's: the cleaner has none to cover.
			if !mounted[m.MountPath] && m.MountPath != tokenDir {
				mounted[m.MountPath] = true
				mounts = append(mounts, m)
			}
			if !m.ReadOnly { // as the one that writes there has it
				i := slices.IndexFunc(mounts, func(o corev1.VolumeMount) bool { return o.MountPath == m.MountPath })
				mounts[i].ReadOnly = false
			}
		}
	}
	if image == "" {
		return nil, fmt.Errorf("DaemonSet %s has no container %s, whose image is needed", agents.Name, agentContainer)
	}
	var volumes []corev1.Volume
	for _, v := range from.Volumes {
		if slices.ContainsFunc(mounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			volumes = append(volumes, v)
		}
	}
	command := []string{"/usr/local/bin/manx-node", "uninstall", "--wait"}
	if pods {
		command = append(command, "--pods")
	}
	no, yes := false, true
	unprivileged := func(capabilities ...corev1.Capability) *corev1.SecurityContext {
		return &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities},
		}
	}
	// As init-host has it in the manifest.
	memory := corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")}}
	soft := corev1.EnvVar{Name: "GOMEMLIMIT", Value: "128MiB"}
	var zero int64
	labels := map[string]string{appLabel: cleanerDaemonSet}
	selector := map[string]string{}
	for k, v := range from.NodeSelector {
		if k != stoppedLabel {
			selector[k] = v
		}
	}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: cleanerDaemonSet, Namespace: agents.Namespace, Labels: labels,
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "DaemonSet", Name: agents.Name, UID: agents.UID},
			},
		},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector: selector, Affinity: from.Affinity, Tolerations: from.Tolerations, HostNetwork: true,
					PriorityClassName: from.PriorityClassName, ImagePullSecrets: from.ImagePullSecrets,
					AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &zero,
					SecurityContext: from.SecurityContext,
					InitContainers: []corev1.Container{{
						Name: "uninstall", Image: image, ImagePullPolicy: pull, Command: command,
						Env: append(env, soft), VolumeMounts: mounts, Resources: memory,
						SecurityContext: unprivileged("NET_ADMIN"), TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
					}},
					Containers: []corev1.Container{{
						Name: "pause", Image: image, ImagePullPolicy: pull, Command: []string{"/usr/local/bin/manx-node", "pause"},
						Env: []corev1.EnvVar{soft}, Resources: memory, SecurityContext: unprivileged(),
					}},
					Volumes: volumes,
				},
			},
		},
	}, nil
}

// forgetNodes takes from the Nodes what the agents said there.
func (u uninstaller) forgetNodes(ctx context.Context) error {
	nodes, err := u.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range nodes.Items {
		patch := map[string]any{}
		gone := map[string]any{}
		for _, name := range apiv1.NodeAnnotations {
			if _, has := n.Annotations[name]; has {
				gone[name] = nil
			}
		}
		if len(gone) > 0 {
			patch["metadata"] = map[string]any{"annotations": gone}
		}
		var conditions []any
		for _, c := range n.Status.Conditions {
			if setByAgent(c) {
				conditions = append(conditions, map[string]any{"type": c.Type, "$patch": "delete"})
			}
		}
		if len(conditions) > 0 {
			patch["status"] = map[string]any{"conditions": conditions}
		}
		if len(patch) == 0 {
			continue
		}
		raw, err := json.Marshal(patch)
		if err != nil {
			return err
		}
		if _, err := u.client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType,
			raw, metav1.PatchOptions{}, "status"); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("take annotations and condition from Node %s: %w", n.Name, err)
		}
	}
	u.say("%d Nodes have no annotation and no condition of Manx", len(nodes.Items))
	return nil
}

func setByAgent(c corev1.NodeCondition) bool {
	reasons := []string{apiv1.ReasonNodeNetworkUp, apiv1.ReasonNodeIPIPUnavailable, apiv1.ReasonNodeNoBGPSession, apiv1.ReasonNodeCNIConfig}
	return c.Type == apiv1.ConditionNodeSettings || c.Type == corev1.NodeNetworkUnavailable && slices.Contains(reasons, c.Reason)
}

// freePools takes the finalizer from the pools.
func (u uninstaller) freePools(ctx context.Context) error {
	pools := u.objects.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralIPPools))
	list, err := pools.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil // the CRDs are gone, and the pools with them
	}
	if err != nil {
		return fmt.Errorf("list pools: %w", err)
	}
	for _, p := range list.Items {
		had := p.GetFinalizers()
		left := slices.DeleteFunc(slices.Clone(had), func(f string) bool { return f == apiv1.FinalizerPoolInUse })
		if len(left) == len(had) {
			continue
		}
		// The version makes sure that nobody's finalizer is lost.
		raw, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": left, "resourceVersion": p.GetResourceVersion()}})
		if err != nil {
			return err
		}
		if _, err := pools.Patch(ctx, p.GetName(), types.MergePatchType, raw, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("take the finalizer from pool %s: %w", p.GetName(), err)
		}
	}
	u.say("no pool waits for Manx to be deleted")
	return nil
}
