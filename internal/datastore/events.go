package datastore

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// eventWriter raises Events about invalid objects. Every agent sees the same
// object, so the Event's name is derived from the object and the reason: the
// first agent creates it, the others find that it exists. One Event a fault,
// however many nodes there are.
type eventWriter struct {
	client kubernetes.Interface
	log    *slog.Logger
	queue  chan *eventsv1.Event
	seen   map[string]bool
}

// eventBacklog bounds what waits while the API is away; more is dropped, since
// the log line has said it already.
const eventBacklog = 64

func newEventWriter(client kubernetes.Interface, log *slog.Logger) *eventWriter {
	return &eventWriter{client: client, log: log, queue: make(chan *eventsv1.Event, eventBacklog), seen: map[string]bool{}}
}

// invalid reports one object once per reason. It is called from the single
// goroutine that asks for snapshots.
func (w *eventWriter) invalid(i Invalid, uid types.UID) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%s/%s", i.Kind, i.Name, uid, i.Reason)
	name := fmt.Sprintf("%s.%x", i.Name, h.Sum64())
	if w.seen[name] {
		return
	}
	w.seen[name] = true
	w.log.Warn("invalid object", "kind", i.Kind, "name", i.Name, "reason", i.Reason)
	apiVersion := apiv1.SchemeGroupVersion.String()
	if i.Kind == kindNode {
		apiVersion = "v1"
	}
	w.put(&eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault},
		Action:     "Validate",
		Reason:     "Invalid",
		Type:       corev1.EventTypeWarning,
		Note:       "ignored by Manx: " + i.Reason,
		Regarding:  corev1.ObjectReference{APIVersion: apiVersion, Kind: i.Kind, Name: i.Name, UID: uid},
	})
}

// happened reports something that this agent has done on its Node. Unlike a fault it
// is reported each time, as client-go's recorder names it: by the time.
func (w *eventWriter) happened(node metav1.ObjectMeta, reason, note string) {
	w.put(&eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", node.Name, time.Now().UnixNano()), Namespace: metav1.NamespaceDefault},
		Action:     "Route",
		Reason:     reason,
		Type:       corev1.EventTypeNormal,
		Note:       note,
		Regarding:  corev1.ObjectReference{APIVersion: "v1", Kind: kindNode, Name: node.Name, UID: node.UID},
	})
}

// put completes an Event and queues it.
func (w *eventWriter) put(e *eventsv1.Event) {
	host, _ := os.Hostname()
	e.EventTime = metav1.NewMicroTime(time.Now())
	e.ReportingController, e.ReportingInstance = "manx.io/manx-node", "manx-node-"+host
	select {
	case w.queue <- e:
	default:
	}
}

// run writes queued Events until ctx ends.
func (w *eventWriter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.queue:
			_, err := w.client.EventsV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
				w.log.Warn("event not written", "event", e.Name, "err", err)
			}
		}
	}
}
