package settingsreport

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// kept is an object as an informer keeps it.
type kept[T any] struct {
	metav1.ObjectMeta
	value T
}

// identity is what remains of an object's metadata.
func identity(m metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion()}
}

// each yields what an informer keeps.
func each[T any](inf cache.SharedIndexInformer, yield func(*kept[T])) {
	for _, o := range inf.GetStore().List() {
		if k, ok := o.(*kept[T]); ok {
			yield(k)
		}
	}
}

// trimNamespace keeps of a namespace what its condition about policy says.
func trimNamespace(o any) (any, error) {
	n, ok := o.(*corev1.Namespace)
	if !ok {
		return o, nil
	}
	k := &kept[corev1.NamespaceCondition]{ObjectMeta: identity(n)}
	for _, c := range n.Status.Conditions {
		if c.Type == apiv1.ConditionNamespacePolicy {
			k.value = c
		}
	}
	return k, nil
}

// trimPolicy keeps of a NetworkPolicy that it exists.
func trimPolicy(o any) (any, error) {
	p, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o, nil
	}
	return &kept[struct{}]{ObjectMeta: identity(p)}, nil
}
