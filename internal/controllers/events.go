package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/excerpt"
)

// eventTimeout bounds the writing of one Event, which nothing waits for long.
const eventTimeout = 5 * time.Second

// events raises Events. One that cannot be written is logged and lost: the log
// has what it says.
type events struct {
	kube     kubernetes.Interface
	instance string // this process, in the Events
	log      *slog.Logger
}

// node raises an Event about a Node, which may be gone.
func (e *events) node(ctx context.Context, name, reason, note string) {
	if name != "" {
		e.raise(ctx, corev1.EventTypeNormal, reason, note, corev1.ObjectReference{APIVersion: "v1", Kind: kindNode, Name: name})
	}
}

// pool raises an Event about an IPPool.
func (e *events) pool(ctx context.Context, p *v1.IPPool, kind, reason, note string) {
	e.raise(ctx, kind, reason, note,
		corev1.ObjectReference{APIVersion: v1.SchemeGroupVersion.String(), Kind: kindPool, Name: p.Name, UID: p.UID})
}

func (e *events) raise(ctx context.Context, kind, reason, note string, about corev1.ObjectReference) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	now := time.Now()
	event := &eventsv1.Event{
		// Named as client-go's recorder does: by the time.
		ObjectMeta: metav1.ObjectMeta{
			Name: excerpt.Name(about.Name, fmt.Sprintf(".%x", now.UnixNano())), Namespace: metav1.NamespaceDefault,
		},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "manx.io/manx-controllers",
		ReportingInstance:   e.instance,
		Action:              "Reconcile",
		Reason:              reason, Type: kind, Note: excerpt.Message(note), Regarding: about,
	}
	if _, err := e.kube.EventsV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
		e.log.Warn("event not written", "about", about.Kind+" "+about.Name, "reason", reason, "note", note, "err", err)
	}
}
