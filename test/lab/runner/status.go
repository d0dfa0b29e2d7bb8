package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/manx-cni/manx/test/lab/proc"
)

// publish writes the pod's status whenever it has changed, until ctx ends.
func (w *worker) publish(ctx context.Context) {
	var last corev1.PodStatus
	said := ""
	w.tell()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
		now := w.status(last)
		if reflect.DeepEqual(now, last) && !w.static {
			continue
		}
		if err := w.write(ctx, now); err != nil {
			if ctx.Err() == nil && !apierrors.IsNotFound(err) && err.Error() != said {
				said = err.Error()
				w.log.Warn("the pod's status is not written", "pod", w.pod.Name, "error", err)
			}
			if !pause(ctx, retryPause/4) {
				return
			}
			w.tell()
			continue
		}
		last, said = now, ""
	}
}

// status is the pod's, with the times of what has not changed since last.
func (w *worker) status(last corev1.PodStatus) corev1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := corev1.PodStatus{Phase: corev1.PodPending, HostIP: w.Addrs[0].String(), StartTime: last.StartTime}
	if s.StartTime == nil {
		now := metav1.Now().Rfc3339Copy()
		s.StartTime = &now
	}
	for _, a := range w.Addrs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: a.String()})
	}
	ips := w.state.IPs
	if w.pod.Spec.HostNetwork {
		ips = nil
		for _, a := range w.Addrs {
			ips = append(ips, a.String())
		}
	}
	for i, ip := range ips {
		if i == 0 {
			s.PodIP = ip
		}
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	running, ready := true, true
	why := "" // not ready
	for _, c := range w.pod.Spec.Containers {
		cs := corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image}
		now := w.state.Containers[c.Name]
		switch {
		case now == nil || now.Process == (proc.ID{}):
			running, ready = false, false
			why = "container " + c.Name + " does not run"
			cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
			if now != nil && now.Waiting != "" {
				cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CreateContainerError", Message: now.Waiting}
			}
			if now != nil {
				cs.RestartCount = now.Restarts
			}
		default:
			cs.State.Running = &corev1.ContainerStateRunning{}
			cs.ContainerID, cs.RestartCount, cs.Ready = "lab://"+now.ID, now.Restarts, now.Ready
			started := true
			cs.Started = &started
			ready = ready && now.Ready
			if !now.Ready && why == "" {
				why = strings.TrimSuffix("container "+c.Name+" is not ready: "+now.Unready, ": ")
			}
		}
		s.ContainerStatuses = append(s.ContainerStatuses, cs)
	}
	if running {
		s.Phase = corev1.PodRunning
	}
	for _, c := range []struct {
		kind corev1.PodConditionType
		is   bool
	}{
		{corev1.PodScheduled, true},
		{corev1.PodReadyToStartContainers, len(ips) > 0},
		{corev1.PodInitialized, w.state.Prepared},
		{corev1.ContainersReady, ready},
		{corev1.PodReady, ready},
	} {
		said := ""
		if !c.is && (c.kind == corev1.ContainersReady || c.kind == corev1.PodReady) {
			said = why
		}
		s.Conditions = append(s.Conditions, condition(last.Conditions, c.kind, c.is, said))
	}
	return s
}

func condition(last []corev1.PodCondition, kind corev1.PodConditionType, is bool, said string) corev1.PodCondition {
	c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Message: said, LastTransitionTime: metav1.Now().Rfc3339Copy()}
	if is {
		c.Status = corev1.ConditionTrue
	}
	for _, l := range last {
		if l.Type == kind && l.Status == c.Status {
			c.LastTransitionTime = l.LastTransitionTime
		}
	}
	return c
}

// write puts the status into the API server. A static pod gets its mirror there first.
func (w *worker) write(ctx context.Context, s corev1.PodStatus) error {
	uid := w.pod.UID
	if w.static {
		mirror, err := w.mirror(ctx)
		if err != nil {
			return err
		}
		uid = mirror.UID
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "status": s})
	if err != nil {
		return err
	}
	_, err = w.client.CoreV1().Pods(w.pod.Namespace).Patch(ctx, w.pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) && !w.static {
		return nil // another pod has the name by now, or none: the watch says so, too
	}
	return err
}

// mirror is the object of a static pod.
func (w *worker) mirror(ctx context.Context) (*corev1.Pod, error) {
	pods := w.client.CoreV1().Pods(w.pod.Namespace)
	hash := w.pod.Annotations[corev1.MirrorPodAnnotationKey]
	there, err := pods.Get(ctx, w.pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		mirror := w.pod.DeepCopy()
		mirror.UID, mirror.ResourceVersion = "", ""
		return pods.Create(ctx, mirror, metav1.CreateOptions{})
	}
	if err == nil && there.Annotations[corev1.MirrorPodAnnotationKey] != hash {
		err = errors.Join(deleteNow(ctx, w, there), errors.New("it is the object of another pod: it is deleted first"))
	}
	return there, err
}

// forget removes the pod's object, when it is still there: that is how a pod ends whose
// deletion the API server has noted, and a static pod's mirror.
func (w *worker) forget(ctx context.Context) bool {
	for {
		there, err := w.client.CoreV1().Pods(w.pod.Namespace).Get(ctx, w.pod.Name, metav1.GetOptions{})
		if err == nil && (there.UID == w.pod.UID || w.static) {
			err = deleteNow(ctx, w, there)
		}
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return true
		}
		w.log.Warn("the pod's object is not deleted", "pod", w.pod.Name, "error", err)
		if !pause(ctx, retryPause) {
			return false
		}
	}
}

func deleteNow(ctx context.Context, w *worker, pod *corev1.Pod) error {
	now := metav1.NewDeleteOptions(0)
	now.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	return w.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *now)
}

// complain logs a failure and makes an Event of it, unless it is the last one again. The
// id of a network, which each try has of its own, does not make it another.
func (w *worker) complain(ctx context.Context, reason, text string) {
	key := reason + ": " + withoutIDs.ReplaceAllString(text, "…")
	w.mu.Lock()
	again := w.said == key
	w.said = key
	w.mu.Unlock()
	if again || ctx.Err() != nil {
		return
	}
	w.log.Warn(text, "pod", w.pod.Namespace+"/"+w.pod.Name)
	if len(text) > 1024 { // the API server's limit
		text = strings.ToValidUTF8(text[:1021], "") + "…"
	}
	now := metav1.NewTime(time.Now())
	_, err := w.client.CoreV1().Events(w.pod.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: w.pod.Name + ".", Namespace: w.pod.Namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: w.pod.Namespace, Name: w.pod.Name, UID: w.pod.UID},
		Type:           corev1.EventTypeWarning, Reason: reason, Message: text, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: Program, Host: w.Node},
	}, metav1.CreateOptions{})
	if err != nil {
		w.log.Warn("no Event is made", "error", err)
	}
}

// withoutIDs are the ids of networks.
var withoutIDs = regexp.MustCompile(`[0-9a-f]{64}`)

// ended notes how a container's process ended.
func (w *worker) ended(name string, err error) {
	w.exits.Store(name, exitOf{err})
}

type exitOf struct{ err error }

// exit is how an init container ended.
func (w *worker) exit(name string) error {
	e, ok := w.exits.Load(name)
	if !ok {
		return fmt.Errorf("it has not ended")
	}
	return e.(exitOf).err
}
