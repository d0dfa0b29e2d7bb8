package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/ipam/block"
	"github.com/manx-cni/manx/ipam/gc"
)

// The annotations in which the CNI plugin's agent tells a pod's addresses, as
// 10.0.0.1/32 and a comma-separated list of such.
const (
	annotationPodIP  = "cni.projectcalico.org/podIP"
	annotationPodIPs = "cni.projectcalico.org/podIPs"
)

// kept is an object as an informer keeps it: a cluster has tens of thousands of
// pods and handles, and a few words of each matter.
type kept[T any] struct {
	metav1.ObjectMeta
	value T
	err   error // why the object makes no sense; value is not valid then
}

// identity is what remains of an object's metadata.
func identity(m metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion()}
}

// trimCore is the transform of pods and nodes.
func trimCore(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		return &kept[gc.Pod]{ObjectMeta: identity(o), value: podOf(o)}, nil
	case *corev1.Node:
		return &kept[[]netip.Addr]{ObjectMeta: identity(o), value: datastore.StatusAddresses(o)}, nil
	}
	return o, nil
}

// podOf returns what matters of a pod.
func podOf(p *corev1.Pod) gc.Pod {
	out := gc.Pod{Node: strings.Clone(p.Spec.NodeName), Finished: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed}
	told := []string{p.Status.PodIP, p.Annotations[annotationPodIP]}
	for _, ip := range p.Status.PodIPs {
		told = append(told, ip.IP)
	}
	told = append(told, strings.Split(p.Annotations[annotationPodIPs], ",")...)
	for _, text := range told {
		text, _, _ = strings.Cut(strings.TrimSpace(text), "/")
		if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(out.Addrs, a.Unmap()) {
			out.Addrs = append(out.Addrs, a.Unmap())
		}
	}
	return out
}

// trimWith makes a transform of a function that takes what matters of a decoded
// object. One that does not decode is kept as its error: a typed informer would
// fail its whole list instead.
func trimWith[T, V any](value func(*T) (V, error)) func(any) (any, error) {
	return func(o any) (any, error) {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return o, nil
		}
		out := &kept[V]{ObjectMeta: identity(u)}
		decoded := new(T)
		if out.err = runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, decoded); out.err == nil {
			out.value, out.err = value(decoded)
		}
		return out, nil
	}
}

// blockOf returns the block; nil when it is being deleted.
func blockOf(o *v1.IPAMBlock) (*block.Block, error) {
	if o.Spec.Deleted {
		return nil, nil
	}
	b, err := block.Parse(&o.Spec)
	if err == nil && v1.BlockName(b.CIDR()) != o.Name {
		return nil, fmt.Errorf("spec.cidr is %s", b.CIDR())
	}
	return b, err
}

// affinityOf returns a host's affinity; nil when it is another kind's or is being
// deleted.
func affinityOf(o *v1.BlockAffinity) (*gc.Affinity, error) {
	if o.Deleted() || o.Virtual() {
		return nil, nil
	}
	node, cidr, err := o.Claim()
	if err != nil {
		return nil, err
	}
	return &gc.Affinity{Name: o.Name, Version: o.ResourceVersion, Node: node, CIDR: cidr, State: o.State()}, nil
}

// handleOf returns the handle; nil when it is being deleted.
func handleOf(o *v1.IPAMHandle) (*gc.Handle, error) {
	if o.Spec.Deleted {
		return nil, nil
	}
	counts, err := o.Counts()
	if err != nil {
		return nil, err
	}
	return &gc.Handle{
		Name: o.Name, Version: o.ResourceVersion, ID: o.Spec.HandleID, NodeHash: o.Labels[v1.LabelHostnameHash], Counts: counts,
	}, nil
}

// poolOf keeps the whole pool: there are few, and their metadata matters.
func poolOf(o *v1.IPPool) (*v1.IPPool, error) {
	o.ManagedFields = nil
	return o, nil
}

// reservedOf returns the ranges of a reservation that make sense.
func reservedOf(o *v1.IPReservation) ([]netip.Prefix, error) {
	ranges, _ := o.Ranges() // the agents tell of entries that are none
	return ranges, nil
}

func configOf(o *v1.KubeControllersConfiguration) (v1.KubeControllersConfigurationSpec, error) {
	return o.Spec, nil
}
