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
	"github.com/manx-cni/manx/internal/excerpt"
)

// eventWriter raises Events about invalid objects. Every agent sees the same
// object, so the Event's name is derived from the object and the reason: the
// first agent creates it, the others find that it exists. One Event a fault,
// however many nodes there are.
type eventWriter struct {
	client kubernetes.Interface
	log    *slog.Logger
	queue  chan *eventsv1.Event
	again  func(time.Duration) // has the invalid objects reported once more, after that time
	now    func() time.Time

	told    map[string]bool // names of the Events of what is invalid now
	objects map[offender]*patience
}

// offender is an object that was invalid at some time, and still exists.
type offender struct {
	kind, name string
	uid        types.UID
}

// patience is how often an object was reported since a moment.
type patience struct {
	since time.Time
	told  int
}

// An object is reported at most tellTimes within tellWithin: one that may write it could
// else fill the logs of all nodes, and etcd with Events, by writing one bad value after
// the other. What is held back is looked at again when the time is over, and reported if
// it is still so.
const (
	tellTimes  = 5
	tellWithin = 10 * time.Minute
)

// eventBacklog bounds what waits while the API is away; more is dropped, since
// the log line has said it already.
const eventBacklog = 64

func newEventWriter(client kubernetes.Interface, log *slog.Logger, wake func()) *eventWriter {
	return &eventWriter{
		client: client, log: log, queue: make(chan *eventsv1.Event, eventBacklog), now: time.Now,
		again: func(after time.Duration) { time.AfterFunc(after, wake) },
		told:  map[string]bool{}, objects: map[offender]*patience{},
	}
}

// report tells of all objects that are invalid now, of each once per reason. uidOf says
// which object has that kind and name now, if any. It is called from one
// goroutine.
func (w *eventWriter) report(all []Invalid, uidOf func(kind, name string) (types.UID, bool)) {
	told := make(map[string]bool, len(all))
	for _, i := range all {
		if uid, exists := uidOf(i.Kind, i.Name); exists {
			if name := eventName(i, uid); w.told[name] || w.invalid(i, uid, name) {
				told[name] = true
			}
		}
	}
	w.told = told
	for o := range w.objects {
		if uid, exists := uidOf(o.kind, o.name); !exists || uid != o.uid {
			delete(w.objects, o)
		}
	}
}

// eventName is the same for the same fault on every node.
func eventName(i Invalid, uid types.UID) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%s/%s", i.Kind, i.Name, uid, i.Reason)
	return excerpt.Name(i.Name, fmt.Sprintf(".%x", h.Sum64()))
}

// mayTell reports whether an object may be reported once more now, and counts it.
func (w *eventWriter) mayTell(o offender) bool {
	now, p := w.now(), w.objects[o]
	switch {
	case p == nil || now.Sub(p.since) >= tellWithin:
		w.objects[o] = &patience{since: now, told: 1}
	case p.told < tellTimes:
		p.told++
	case p.told == tellTimes:
		p.told++
		w.log.Warn("invalid object: its faults change quickly; the next is told later",
			"kind", o.kind, "name", o.name, "in", tellWithin-now.Sub(p.since))
		w.again(tellWithin - now.Sub(p.since))
		return false
	default:
		return false
	}
	return true
}

// invalid reports one object for one reason, unless it has been reported too often.
func (w *eventWriter) invalid(i Invalid, uid types.UID, name string) bool {
	if !w.mayTell(offender{i.Kind, i.Name, uid}) {
		return false
	}
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
	return true
}

// happened reports something that this agent has done on its Node. Unlike a fault it
// is reported each time, as client-go's recorder names it: by the time.
func (w *eventWriter) happened(node metav1.ObjectMeta, eventType, reason, note string) {
	w.put(&eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name: excerpt.Name(node.Name, fmt.Sprintf(".%x", time.Now().UnixNano())), Namespace: metav1.NamespaceDefault,
		},
		Action:    "Route",
		Reason:    reason,
		Type:      eventType,
		Note:      note,
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: kindNode, Name: node.Name, UID: node.UID},
	})
}

// put completes an Event and queues it.
func (w *eventWriter) put(e *eventsv1.Event) {
	host, _ := os.Hostname()
	e.Note = excerpt.Message(e.Note)
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
