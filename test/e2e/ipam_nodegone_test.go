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

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// setGrace sets how long the controllers wait before they release anything, until the test ends.
func setGrace(t *testing.T, grace time.Duration) {
	t.Helper()
	const name = "default"
	var before apiv1.KubeControllersConfiguration
	err := getCR(t.Context(), apiv1.PluralKubeControllersConfigurations, name, &before)
	patch := func(ctx context.Context, value string) error {
		return patchCR(ctx, apiv1.PluralKubeControllersConfigurations, name, `{"spec":{"controllers":{"node":{"leakGracePeriod":`+value+`}}}}`)
	}
	if apierrors.IsNotFound(err) {
		t.Cleanup(func() { _ = deleteCR(context.Background(), apiv1.PluralKubeControllersConfigurations, name) })
		err = createCR(t.Context(), apiv1.PluralKubeControllersConfigurations, metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: "KubeControllersConfiguration"},
			ObjectMeta: metav1.ObjectMeta{Name: name},
		})
	} else if err == nil {
		value := "null"
		if n := before.Spec.Controllers.Node; n != nil && n.LeakGracePeriod != nil {
			value = fmt.Sprintf("%q", n.LeakGracePeriod.Duration)
		}
		t.Cleanup(func() { _ = patch(context.Background(), value) })
	}
	if err == nil {
		err = patch(t.Context(), fmt.Sprintf("%q", grace))
	}
	if err != nil {
		t.Fatalf("set the controllers' grace period to %v: %v", grace, err)
	}
}

// blocksOf are the node's blocks.
func (s *ipamState) blocksOf(node string) (cidrs []string) {
	for cidr, owner := range s.blocks {
		if owner == node {
			cidrs = append(cidrs, cidr)
		}
	}
	slices.Sort(cidrs)
	return cidrs
}

// TestIPAMNodeGone: a Node that is deleted and comes back soon has what it had. One that
// stays away is forgotten, with every address, block, affinity and handle of its pods.
func TestIPAMNodeGone(t *testing.T) {
	onLab(t)
	// The controllers run elsewhere: what a dead node's Lease costs is not the question here.
	node := nodeNames(t)[len(nodeNames(t))-1]
	if c := controllers(t); c.Spec.NodeName == node {
		node = "node1"
	}
	t.Run("back within the grace period", func(t *testing.T) { nodeBackSoon(t, node) })
	t.Run("gone", func(t *testing.T) { nodeGone(t, node) })
}

// nodeBackSoon deletes the Node and restarts the node's programs: its kubelet makes a new Node.
func nodeBackSoon(t *testing.T, node string) {
	before, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pod, addr := web(t, node), addrOf(t, web(t, node))
	old := agent(t, node)
	if err := client.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kill(t, machineProcess(t, node, kubeletName()), unix.SIGKILL)
	nodeIsReady(t, node)
	kill(t, pidOf(t, old), unix.SIGKILL)
	restarted(t, node, old.Status.ContainerStatuses[0].RestartCount)
	if now := web(t, node); now.UID != pod.UID || addrOf(t, now) != addr {
		t.Errorf("the web pod of %s is %s with %s, it was %s with %s", node, now.Name, now.Status.PodIP, pod.Name, addr)
	}
	after, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before.addrs, after.addrs) || !slices.Equal(before.blocksOf(node), after.blocksOf(node)) {
		t.Errorf("before the Node was deleted IPAM had %v and blocks %v, now %v and %v",
			before.addrs, before.blocksOf(node), after.addrs, after.blocksOf(node))
	}
	for _, n := range nodeNames(t) {
		routesSettle(t, n)
	}
	noLeak(t)
}

// nodeIsReady waits until the kubelet has made a Node that is Ready.
func nodeIsReady(t *testing.T, node string) {
	t.Helper()
	eventuallyIn(t, 2*patience, "node "+node+" Ready", func(ctx context.Context) error {
		n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %+v", n.Status.Conditions)
	})
}

// nodeGone switches a node with 40 pods off, deletes its Node and, as Kubernetes does
// within two minutes, its pods; at the end it switches the node on again.
func nodeGone(t *testing.T, node string) {
	const namespace, count, grace = "e2e-gone", 40, 5 * time.Second
	namespaceFor(t, namespace)
	setGrace(t, grace)
	var pods []*corev1.Pod
	for i := range count {
		pods = append(pods, newPod(namespace, fmt.Sprintf("pod-%02d", i), node, podImage))
		createPod(t, pods[i])
	}
	var held []string
	for _, pod := range pods {
		held = append(held, addrOf(t, pod).String())
	}
	s, err := readIPAM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blocks := s.blocksOf(node)
	var handles []string
	for _, addr := range held {
		handles = append(handles, s.addrs[addr])
	}
	if len(blocks) == 0 || len(handles) != count || slices.Contains(handles, "") {
		t.Fatalf("%s has blocks %v and its pods handles %q", node, blocks, handles)
	}

	on := true
	t.Cleanup(func() {
		if !on {
			if err := cluster.StartNode(context.Background(), node); err != nil {
				t.Errorf("switch %s on again: %v", node, err)
			}
		}
	})
	if err := cluster.StopNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	on = false
	if err := client.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	for _, ns := range []string{namespace, "default", "kube-system"} {
		where := metav1.ListOptions{FieldSelector: "spec.nodeName=" + node}
		if err := client.CoreV1().Pods(ns).DeleteCollection(t.Context(), *now(), where); err != nil {
			t.Fatal(err)
		}
	}
	eventuallyIn(t, 3*patience, "everything of "+node+" gone", func(ctx context.Context) error { return nothingOf(ctx, node, handles) })
	took := time.Since(deleted)
	t.Logf("everything of %s was gone %.1f s after its Node, with a grace period of %v", node, took.Seconds(), grace)
	if took < grace {
		t.Errorf("it was gone after %v, before the grace period of %v was over", took, grace)
	}
	for _, other := range nodeNames(t) {
		if other == node {
			continue
		}
		eventually(t, "no routes to the blocks of "+node+" on "+other, func(ctx context.Context) error {
			out, err := cluster.Exec(ctx, other, "ip", "route")
			for _, block := range blocks {
				if strings.Contains(out, block) {
					err = errors.Join(err, fmt.Errorf("%s is there:\n%s", block, out))
				}
			}
			return err
		})
	}

	if err := cluster.StartNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	on = true
	nodeIsReady(t, node)
	agent(t, node)
	if shape.Light { // no DaemonSet makes it again
		if err := makeWeb(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	web(t, node)
	for _, n := range nodeNames(t) {
		eventually(t, "sessions of "+n, func(ctx context.Context) error {
			return settled(ctx, n)
		})
		routesSettle(t, n)
	}
	pings(t, web(t, node), addrOf(t, web(t, "node2")), ttlOtherNode)
	noLeak(t)
	noStrayInterfaces(t, node)
}

// nothingOf tells what IPAM still has of a node that is gone.
func nothingOf(ctx context.Context, node string, handles []string) error {
	var blocks apiv1.IPAMBlockList
	var affinities apiv1.BlockAffinityList
	var there apiv1.IPAMHandleList
	if err := errors.Join(getList(ctx, apiv1.PluralIPAMBlocks, &blocks),
		getList(ctx, apiv1.PluralBlockAffinities, &affinities), getList(ctx, apiv1.PluralIPAMHandles, &there)); err != nil {
		return err
	}
	left := map[string]int{}
	for _, b := range blocks.Items {
		if b.Spec.Affinity != nil && *b.Spec.Affinity == apiv1.HostAffinity(node) {
			left["blocks"]++
		}
		for _, index := range b.Spec.Allocations {
			if index != nil && *index < len(b.Spec.Attributes) && b.Spec.Attributes[*index].Secondary["node"] == node {
				left["addresses"]++
			}
		}
	}
	for _, a := range affinities.Items {
		if a.Spec.Node == node {
			left["affinities"]++
		}
	}
	for _, h := range there.Items {
		if slices.Contains(handles, h.Spec.HandleID) {
			left["handles"]++
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("there are still %v", left)
	}
	return nil
}
