package settingsreport

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
)

// maxNote bounds the note of an Event, in bytes; the API takes 1,024.
const maxNote = 1000

// tellObjects raises an Event on every object of which something new is to be said.
func (r *Reporter) tellObjects(ctx context.Context) error {
	told := map[string]string{}
	var err error
	for _, inf := range r.objects {
		each(inf, func(k *kept[object]) {
			if len(k.value.findings) == 0 || ctx.Err() != nil {
				return
			}
			note, reason := settings.Summary(k.value.findings, maxNote), apiv1.ReasonSettingWithoutEffect
			if len(settings.Grave(k.value.findings)) > 0 {
				reason = apiv1.ReasonSettingRefused
			}
			key := fmt.Sprintf("%s/%s/%s", k.value.about.Kind, k.Name, k.UID)
			if r.told[key] != note {
				if e := r.raise(ctx, k.value.about, reason, note, note); e != nil {
					err = e
					if was, had := r.told[key]; had {
						told[key] = was
					}
					return
				}
				r.Log.Warn("set without effect", "object", k.value.about.Kind+"/"+k.Name, "note", note)
			}
			told[key] = note
		})
	}
	for key := range r.told {
		if _, still := told[key]; !still {
			r.Log.Info("not set without effect any more", "object", key[:strings.LastIndexByte(key, '/')])
		}
	}
	r.told = told
	return err
}

// raise raises an Event once: its name is made of what it is about, the reason and what
// makes it another one.
func (r *Reporter) raise(ctx context.Context, about corev1.ObjectReference, reason, note, distinct string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%s/%s/%s", about.Kind, about.Name, about.UID, reason, distinct)
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", about.Name, h.Sum64()), Namespace: namespace},
		EventTime:           metav1.NewMicroTime(time.Now()),
		ReportingController: "manx.io/manx-controllers",
		ReportingInstance:   r.Instance,
		Action:              "Report",
		Reason:              reason, Type: corev1.EventTypeWarning, Note: note, Regarding: about,
	}
	_, err := r.Kubernetes.EventsV1().Events(namespace).Create(ctx, event, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return fmt.Errorf("raise Event %s on %s %s: %w", reason, about.Kind, about.Name, err)
	}
	return nil
}
