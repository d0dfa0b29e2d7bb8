//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/internal/testwait"
	"github.com/manx-cni/manx/test/lab/runner"
)

// Calico's annotations of pods and namespaces.
const (
	annotationPools4   = "cni.projectcalico.org/ipv4pools"
	annotationAddrs    = "cni.projectcalico.org/ipAddrs"
	annotationMAC      = "cni.projectcalico.org/hwAddr"
	annotationFamilies = "cni.projectcalico.org/ipFamilies"
)

func crPath(plural string, name ...string) []string {
	return append([]string{"/apis", apiv1.SchemeGroupVersion.String(), plural}, name...)
}

func getCR(ctx context.Context, plural, name string, into any) error {
	b, err := client.RESTClient().Get().AbsPath(crPath(plural, name)...).DoRaw(ctx)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

func createCR(ctx context.Context, plural string, object any) error {
	b, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return client.RESTClient().Post().AbsPath(crPath(plural)...).SetHeader("Content-Type", "application/json").Body(b).Do(ctx).Error()
}

func replaceCR(ctx context.Context, plural, name string, object any) error {
	b, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return client.RESTClient().Put().AbsPath(crPath(plural, name)...).SetHeader("Content-Type", "application/json").Body(b).Do(ctx).Error()
}

func patchCR(ctx context.Context, plural, name, merge string) error {
	return client.RESTClient().Patch(types.MergePatchType).AbsPath(crPath(plural, name)...).Body([]byte(merge)).Do(ctx).Error()
}

// deleteCR deletes an object; that there is none is no error. Who waits for its end looks himself.
func deleteCR(ctx context.Context, plural, name string) error {
	err := client.RESTClient().Delete().AbsPath(crPath(plural, name)...).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// newPool makes a pool of the test's own. When the test ends, after its pods, the pool
// goes with everything that IPAM has of it.
func newPool(t *testing.T, name string, spec apiv1.IPPoolSpec) netip.Prefix {
	t.Helper()
	cidr := netip.MustParsePrefix(spec.CIDR)
	t.Cleanup(func() { removePool(t, name, cidr) })
	pool := apiv1.IPPool{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: "IPPool"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec,
	}
	if err := createCR(t.Context(), apiv1.PluralIPPools, pool); err != nil {
		t.Fatalf("create pool %s: %v", name, err)
	}
	agentsKnow(t, name, spec.Disabled)
	return cidr
}

// agentsKnow waits until every node's agent works with a pool as it is now. An agent
// learns of a change some milliseconds after it was made, and pods that are started in
// them are judged by what was before.
func agentsKnow(t *testing.T, pool string, disabled bool) {
	t.Helper()
	for _, node := range nodeNames(t) {
		eventually(t, "pool "+pool+" on "+node, func(ctx context.Context) error {
			s, err := nodeStatus(ctx, node)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(s.Pools, func(p status.Pool) bool { return p.Name == pool })
			if i < 0 || s.Pools[i].Disabled != disabled {
				return fmt.Errorf("the agent's pools are %+v", s.Pools)
			}
			return nil
		})
	}
}

// byRequest is a pool that gives addresses only to who asks for it.
func byRequest(cidr string, blockSize int) apiv1.IPPoolSpec {
	return apiv1.IPPoolSpec{CIDR: cidr, BlockSize: blockSize, AssignmentMode: apiv1.AssignManual}
}

// removePool deletes a pool and waits until nothing of it is left. What stays is a
// failure, and is then removed by hand so that the tests that follow do not suffer from it.
func removePool(t *testing.T, name string, cidr netip.Prefix) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	err := deleteCR(ctx, apiv1.PluralIPPools, name)
	if err == nil && testwait.Poll(patience, func() bool { err = poolGone(ctx, name, cidr); return err == nil }) {
		return
	}
	t.Errorf("remove pool %s: %v", name, err)
	_ = patchCR(ctx, apiv1.PluralIPPools, name, `{"metadata":{"finalizers":null}}`)
	objects, _ := objectsIn(ctx, cidr)
	for _, o := range objects {
		_ = deleteCR(ctx, o.plural, o.name)
	}
}

// poolGone tells what is left of a pool.
func poolGone(ctx context.Context, name string, cidr netip.Prefix) error {
	var pool apiv1.IPPool
	err := getCR(ctx, apiv1.PluralIPPools, name, &pool)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err == nil {
		return fmt.Errorf("pool %s is there, deletionTimestamp %v, finalizers %q, status %+v",
			name, pool.DeletionTimestamp, pool.Finalizers, pool.Status)
	}
	return nothingIn(ctx, cidr)
}

// nothingIn tells which IPAM objects there are in a range.
func nothingIn(ctx context.Context, cidr netip.Prefix) error {
	left, err := objectsIn(ctx, cidr)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("of %s there are %v", cidr, left)
	}
	return err
}

// crObject names an object of Manx's.
type crObject struct{ plural, name string }

func (o crObject) String() string { return o.plural + "/" + o.name }

// objectsIn lists the blocks, affinities and handles with addresses in a range.
func objectsIn(ctx context.Context, cidr netip.Prefix) (found []crObject, err error) {
	var blocks apiv1.IPAMBlockList
	var affinities apiv1.BlockAffinityList
	var handles apiv1.IPAMHandleList
	if err := errors.Join(getList(ctx, apiv1.PluralIPAMBlocks, &blocks),
		getList(ctx, apiv1.PluralBlockAffinities, &affinities), getList(ctx, apiv1.PluralIPAMHandles, &handles)); err != nil {
		return nil, err
	}
	within := func(block string) bool {
		p, err := netip.ParsePrefix(block)
		return err == nil && cidr.Overlaps(p)
	}
	for _, b := range blocks.Items {
		if within(b.Spec.CIDR) {
			found = append(found, crObject{apiv1.PluralIPAMBlocks, b.Name})
		}
	}
	for _, a := range affinities.Items {
		if within(a.Spec.CIDR) {
			found = append(found, crObject{apiv1.PluralBlockAffinities, a.Name})
		}
	}
	for _, h := range handles.Items {
		for b := range h.Spec.Block {
			if within(b) {
				found = append(found, crObject{apiv1.PluralIPAMHandles, h.Name})
				break
			}
		}
	}
	return found, nil
}

// asking gives a pod annotations: keys and values in turn.
func asking(pod *corev1.Pod, annotations ...string) *corev1.Pod {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	for pair := range slices.Chunk(annotations, 2) {
		pod.Annotations[pair[0]] = pair[1]
	}
	return pod
}

// fromPool is a pod that asks for a pool.
func fromPool(pool, name, node string) *corev1.Pod {
	return asking(newPod("default", name, node, podImage), annotationPools4, fmt.Sprintf("[%q]", pool))
}

// sandboxEvents are the reasons why the kubelet could not give the pod a network, so far.
func sandboxEvents(ctx context.Context, pod *corev1.Pod) (messages []string, err error) {
	list, err := client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=Pod,involvedObject.name=" + pod.Name + ",reason=FailedCreatePodSandBox",
	})
	if err != nil {
		return nil, err
	}
	for _, e := range list.Items {
		messages = append(messages, e.Message)
	}
	return messages, nil
}

// addrOf waits until the pod is ready and returns its address.
func addrOf(t *testing.T, pod *corev1.Pod) (addr netip.Addr) {
	t.Helper()
	eventually(t, "pod "+pod.Namespace+"/"+pod.Name+" ready", func(ctx context.Context) error {
		p, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if err := podReady(p); err != nil {
			events, errEvents := sandboxEvents(ctx, pod)
			return errors.Join(err, errEvents, fmt.Errorf("its events: %q", events))
		}
		addr, err = netip.ParseAddr(p.Status.PodIP)
		return err
	})
	return addr
}

// refused waits for an event of the pod that has all of the texts, and returns its message.
func refused(t *testing.T, pod *corev1.Pod, texts ...string) (message string) {
	t.Helper()
	eventually(t, fmt.Sprintf("event of pod %s with %q", pod.Name, texts), func(ctx context.Context) error {
		events, err := sandboxEvents(ctx, pod)
		if err != nil {
			return err
		}
		for _, message = range events {
			if containsAll(message, texts) {
				return nil
			}
		}
		p, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err == nil {
			err = fmt.Errorf("the pod is %s with address %q, its events are %q", p.Status.Phase, p.Status.PodIP, events)
		}
		return err
	})
	return message
}

// deletePod deletes a pod at once and waits until IPAM has forgotten its address.
func deletePod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if err := client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, *now()); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	eventually(t, "address of pod "+pod.Name+" released", func(ctx context.Context) error {
		s, err := readIPAM(ctx)
		if err != nil {
			return err
		}
		if held := s.pods[pod.Namespace+"/"+pod.Name]; len(held) > 0 {
			return fmt.Errorf("IPAM has %v", held)
		}
		return nil
	})
}

// pings sends three packets from a pod that has ping.
func pings(t *testing.T, from *corev1.Pod, to netip.Addr, ttl int) {
	t.Helper()
	what := fmt.Sprintf("ping from %s on %s to %s", from.Name, from.Spec.NodeName, to)
	eventuallyIn(t, patience/4, what, func(ctx context.Context) error {
		out, err := execIn(ctx, from, "ping", "-c", "3", "-i", "0.1", "-W", "2", to.String())
		if n := strings.Count(out, fmt.Sprintf("ttl=%d", ttl)); err == nil && n != 3 {
			err = fmt.Errorf("%d answers with ttl=%d, want 3:\n%s", n, ttl, out)
		}
		return err
	})
}

// ttls of an answered ping: each node on the way takes one.
const (
	ttlSameNode  = 63
	ttlOtherNode = 62
)

// kubeletName is the program that starts and ends pods on a node.
func kubeletName() string {
	if shape.Light {
		return runner.Program
	}
	return "kubelet"
}

// freezeKubelet keeps a node from starting and ending pods until thaw is called, or the test ends.
func freezeKubelet(t *testing.T, node string) (thaw func()) {
	t.Helper()
	pid := machineProcess(t, node, kubeletName())
	kill(t, pid, unix.SIGSTOP)
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGCONT) })
	return func() { kill(t, pid, unix.SIGCONT) }
}

// poolEvent waits for an event about a pool with the reason and all of the texts.
func poolEvent(t *testing.T, pool, reason string, texts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("event %s about pool %s with %q", reason, pool, texts), func(ctx context.Context) error {
		list, err := client.EventsV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var others []string
		for _, e := range list.Items {
			if e.Regarding.Kind != "IPPool" || e.Regarding.Name != pool {
				continue
			}
			if e.Reason == reason && containsAll(e.Note, texts) {
				return nil
			}
			others = append(others, e.Reason+": "+e.Note)
		}
		return fmt.Errorf("its events are %q", others)
	})
}
