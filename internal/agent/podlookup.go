package agent

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/progress"
)

// podCache is what the datastore remembers of pods and namespaces.
type podCache interface {
	Pod(namespace, name, uid string) (datastore.PodMeta, bool)
	Namespace(name string) (labels, annotations map[string]string, ok bool)
}

// podLookup finds what Kubernetes says of a pod that starts: in memory, where it
// mostly is since the kubelet and the agent watch the same pods. The runtime may
// be faster than the watch, and then the API server is asked, once.
type podLookup struct {
	cache    podCache
	kube     kubernetes.Interface
	metadata metadata.Interface
	timeout  time.Duration // of all questions for one pod
}

// lookupTimeout is the agent's: as long as IPAM waits for one answer, which the same
// API server gives. A pod whose annotations are not known gets no address.
const lookupTimeout = storeTimeout

// find returns what is known of the endpoint's pod. One that the API server does
// not know has no annotations: a container that no kubelet made, or a static pod
// whose mirror is not there yet. One that was replaced by another of its name is
// an error, since the other's annotations are not for it.
func (l *podLookup) find(ctx context.Context, e nodeapi.Endpoint) (podMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	pod, known := l.cache.Pod(e.Namespace, e.Pod, e.PodUID)
	if !known {
		var o *corev1.Pod
		request := progress.Text(fmt.Sprintf("the read of pod %s/%s, for its annotations,", e.Namespace, e.Pod))
		err := progress.APIServer(ctx, request, func() (err error) {
			o, err = l.kube.CoreV1().Pods(e.Namespace).Get(ctx, e.Pod, metav1.GetOptions{})
			return err
		})
		switch {
		case err == nil:
			known, pod = true, datastore.TrimPod(o)
		case !apierrors.IsNotFound(err):
			return podMeta{}, fmt.Errorf("read pod %s/%s, for its annotations, from the Kubernetes API: %w", e.Namespace, e.Pod, err)
		}
		if known && !pod.Is(e.PodUID) {
			return podMeta{}, fmt.Errorf("pod %s/%s has the UID %s now, want %s: it was replaced", e.Namespace, e.Pod, pod.UID, e.PodUID)
		}
	}
	labels, annotations, found := l.cache.Namespace(e.Namespace)
	if !found && known {
		var o *metav1.PartialObjectMetadata
		request := progress.Text(fmt.Sprintf("the read of namespace %s, for its annotations,", e.Namespace))
		err := progress.APIServer(ctx, request, func() (err error) {
			o, err = l.metadata.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).Get(ctx, e.Namespace, metav1.GetOptions{})
			return err
		})
		if err != nil {
			return podMeta{}, fmt.Errorf("read namespace %s, for its annotations, from the Kubernetes API: %w", e.Namespace, err)
		}
		labels, annotations = o.Labels, o.Annotations
	}
	return podMeta{annotations: pod.Annotations, namespace: annotations, namespaceLabels: labels}, nil
}

// podNamed is what the datastore knows of a pod of this node, whichever has the name.
func (a *Agent) podNamed(namespace, name string) (datastore.PodMeta, bool) {
	return a.datastore.Pod(namespace, name, "")
}
