package datastore

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/manx-cni/manx/api/settings"
)

// What pods and namespaces say decides which address a pod gets, and nothing of
// routing: they are looked up one by one when a pod starts, are no part of a
// Snapshot, and their changes wake nobody.

// PodMeta is what is kept of a pod of this node. Nobody may change its map.
type PodMeta struct {
	Namespace, Name, UID string
	// StaticUID is the UID under which the kubelet runs the pod when the object
	// is only the mirror of a static one (kubernetes.io/config.mirror), else "".
	StaticUID   string
	Annotations map[string]string // for the network, such as cni.projectcalico.org/ipAddrs
	// Addrs are the addresses that the pod's status reports; none until the kubelet
	// has heard of them.
	Addrs []netip.Addr
	// Finished: its phase is Succeeded or Failed.
	Finished bool
}

// Is reports whether the object stands for the pod that the container runtime
// calls by that UID. A runtime that tells none means whichever has the name.
func (p PodMeta) Is(uid string) bool {
	return uid == "" || uid == p.UID || p.StaticUID != "" && uid == p.StaticUID
}

// TrimPod keeps what is used of a pod.
func TrimPod(p *corev1.Pod) PodMeta {
	return PodMeta{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID),
		StaticUID: p.Annotations[corev1.MirrorPodAnnotationKey], Annotations: ofNetwork(p.Annotations),
		Addrs:    addrsOf(p.Status),
		Finished: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
}

// addrsOf reads the addresses of a pod's status, unmapped.
func addrsOf(s corev1.PodStatus) (out []netip.Addr) {
	for _, ip := range append([]corev1.PodIP{{IP: s.PodIP}}, s.PodIPs...) {
		if a, err := netip.ParseAddr(ip.IP); err == nil && !slices.Contains(out, a.Unmap()) {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// ofNetwork keeps the annotations that are for the network; nil when there is none.
func ofNetwork(annotations map[string]string) (out map[string]string) {
	for k, v := range annotations {
		if !settings.AboutPods(k) {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out
}

// podObject is a pod as the informer keeps it.
type podObject struct {
	metav1.ObjectMeta
	pod PodMeta
}

// namespaceObject is a namespace as the informer keeps it: its labels are what
// namespaceSelectors match.
type namespaceObject struct {
	metav1.ObjectMeta
	labels, annotations map[string]string
}

func trimPod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	kept := identity(p)
	kept.Namespace = p.Namespace // it is part of the store's key
	return &podObject{ObjectMeta: kept, pod: TrimPod(p)}, nil
}

func trimNamespace(o any) (any, error) {
	n, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o, nil
	}
	return &namespaceObject{ObjectMeta: identity(n), labels: n.Labels, annotations: ofNetwork(n.Annotations)}, nil
}

// watchPods prepares the informer of the pods that are bound to a node.
func watchPods(client kubernetes.Interface, node string) (factory, cache.SharedIndexInformer) {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimPod),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "spec.nodeName=" + node }))
	return f, f.Core().V1().Pods().Informer()
}

// watchNamespaces prepares the informer of every namespace's metadata.
func watchNamespaces(client metadata.Interface) (factory, cache.SharedIndexInformer, error) {
	f := metadatainformer.NewSharedInformerFactory(client, 0)
	inf := f.ForResource(corev1.SchemeGroupVersion.WithResource("namespaces")).Informer()
	return f, inf, inf.SetTransform(trimNamespace)
}

// Pod returns a pod of this node, when the one that is known by that name is
// also the one of that UID (see [PodMeta.Is]).
func (d *Datastore) Pod(namespace, name, uid string) (PodMeta, bool) {
	o, ok := d.stored(kindPod, namespace+"/"+name).(*podObject)
	if !ok || !o.pod.Is(uid) {
		return PodMeta{}, false
	}
	return o.pod, true
}

// FindPod returns the first pod of this node that match accepts.
func (d *Datastore) FindPod(match func(PodMeta) bool) (PodMeta, bool) {
	inf, watched := d.informers[kindPod]
	if !watched {
		return PodMeta{}, false
	}
	for _, o := range inf.GetStore().List() {
		if p, ok := o.(*podObject); ok && match(p.pod) {
			return p.pod, true
		}
	}
	return PodMeta{}, false
}

// Pods lists the pods of this node.
func (d *Datastore) Pods() (out []PodMeta) {
	if inf, watched := d.informers[kindPod]; watched {
		for _, o := range inf.GetStore().List() {
			if p, ok := o.(*podObject); ok {
				out = append(out, p.pod)
			}
		}
	}
	return out
}

// Namespace returns the labels of a namespace, and its annotations for the
// network. Nobody may change them.
func (d *Datastore) Namespace(name string) (labels, annotations map[string]string, ok bool) {
	o, ok := d.stored(kindNamespace, name).(*namespaceObject)
	if !ok {
		return nil, nil, false
	}
	return o.labels, o.annotations, true
}

// stored is what an informer keeps under a key, or nil.
func (d *Datastore) stored(kind, key string) any {
	inf, watched := d.informers[kind]
	if !watched {
		return nil
	}
	o, found, err := inf.GetStore().GetByKey(key)
	if err != nil || !found {
		return nil
	}
	return o
}
