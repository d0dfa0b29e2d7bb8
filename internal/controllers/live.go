package controllers

import (
	"context"
	"fmt"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/ipam/gc"
)

// live answers from the API server what the cache says of pods and nodes. It asks
// for the current state (a read without a resource version is one from a quorum
// of etcd), and once for each pod and node of one plan.
type live struct {
	kube  kubernetes.Interface
	facts gc.Facts
	pods  map[gc.PodKey]bool // asked for
	nodes map[string]bool    // asked for
}

func newLive(kube kubernetes.Interface) *live {
	return &live{
		kube:  kube,
		facts: gc.Facts{Nodes: map[string]bool{}, Pods: map[gc.PodKey]gc.Pod{}},
		pods:  map[gc.PodKey]bool{},
		nodes: map[string]bool{},
	}
}

// judge is gc.Judge on what the API server says now.
func (l *live) judge(ctx context.Context, addr netip.Addr, attrs map[string]string) (reason string, err error) {
	if node := gc.NodeOf(attrs); node != "" {
		if _, err := l.node(ctx, node); err != nil {
			return "", err
		}
	}
	if key, ok := gc.PodOf(attrs); ok && !l.pods[key] {
		pod, err := l.kube.CoreV1().Pods(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
		switch {
		case err == nil:
			l.facts.Pods[key] = podOf(pod)
		case !apierrors.IsNotFound(err):
			return "", fmt.Errorf("look for pod %s: %w", key, err)
		}
		l.pods[key] = true
	}
	return gc.Judge(addr, attrs, l.facts), nil
}

// node reports whether the Node exists.
func (l *live) node(ctx context.Context, name string) (bool, error) {
	if l.nodes[name] {
		return l.facts.Nodes[name], nil
	}
	_, err := l.kube.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("look for node %s: %w", name, err)
	}
	if err == nil {
		l.facts.Nodes[name] = true
	}
	l.nodes[name] = true
	return err == nil, nil
}
