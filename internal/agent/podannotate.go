package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// podRecord is what Calico's tools expect to find on a pod once it has an
// address: cni.projectcalico.org/containerID, podIP and podIPs.
type podRecord struct {
	namespace, pod, uid, containerID string
	addrs                            []netip.Addr
}

// podAnnotator writes podRecords to pods/status, behind the CNI request and
// never on its path. When the API is slow the oldest records wait; when the
// backlog is full new ones are dropped with a log line: the annotations inform
// tools, nothing in Manx reads them.
type podAnnotator struct {
	client kubernetes.Interface
	queue  chan podRecord
	log    *slog.Logger
}

const (
	annotateBacklog = 1024
	annotateTimeout = 10 * time.Second
	annotateLinger  = 200 * time.Millisecond // after being idle: pods that start go first
)

func newPodAnnotator(client kubernetes.Interface, log *slog.Logger) *podAnnotator {
	return &podAnnotator{client: client, queue: make(chan podRecord, annotateBacklog), log: log}
}

func (a *podAnnotator) add(r podRecord) {
	if r.namespace == "" || r.pod == "" {
		return // a container outside Kubernetes
	}
	select {
	case a.queue <- r:
	default:
		a.log.Warn("pod annotations not written: too many wait for the API", "namespace", r.namespace, "pod", r.pod)
	}
}

// Run writes queued records until ctx ends.
func (a *podAnnotator) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-a.queue:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(annotateLinger):
			}
			a.write(ctx, r)
			a.drain(ctx)
		}
	}
}

// drain writes what else waits.
func (a *podAnnotator) drain(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case r := <-a.queue:
			a.write(ctx, r)
		default:
			return
		}
	}
}

func (a *podAnnotator) write(ctx context.Context, r podRecord) {
	ctx, cancel := context.WithTimeout(ctx, annotateTimeout)
	defer cancel()
	_, err := a.client.CoreV1().Pods(r.namespace).Patch(ctx, r.pod, types.StrategicMergePatchType, r.patch(), metav1.PatchOptions{}, "status")
	// Gone, or another pod under the same name by now: nobody misses the record.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		a.log.Warn("pod annotations not written", "namespace", r.namespace, "pod", r.pod, "err", err)
	}
}

// patch carries the UID as a precondition, so that a recreated pod of the same
// name never gets its predecessor's address.
func (r podRecord) patch() []byte {
	meta := map[string]any{"annotations": r.annotations()}
	if r.uid != "" {
		meta["uid"] = r.uid
	}
	out, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		panic(err) // strings in maps always marshal
	}
	return out
}

func (r podRecord) annotations() map[string]string {
	var cidrs []string
	for _, addr := range r.addrs {
		cidrs = append(cidrs, netip.PrefixFrom(addr, addr.BitLen()).String())
	}
	return map[string]string{
		"cni.projectcalico.org/containerID": r.containerID,
		"cni.projectcalico.org/podIP":       first(cidrs),
		"cni.projectcalico.org/podIPs":      strings.Join(cidrs, ","),
	}
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
