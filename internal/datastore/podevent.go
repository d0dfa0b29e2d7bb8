package datastore

import (
	"fmt"
	"hash/fnv"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodEvent raises an Event about a pod, once for a pod and note: a repeated ADD finds
// that it exists. It does not wait, and gives up when the API is away.
func (d *Datastore) PodEvent(namespace, name, uid, reason, note string) {
	if namespace == "" || name == "" {
		return // a container outside Kubernetes
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%s", uid, reason, note)
	d.events.put(&eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", name, h.Sum64()), Namespace: namespace},
		Action:     "Add",
		Reason:     reason,
		Type:       corev1.EventTypeWarning,
		Note:       note,
		Regarding:  corev1.ObjectReference{APIVersion: "v1", Kind: kindPod, Namespace: namespace, Name: name, UID: types.UID(uid)},
	})
}
