package datastore

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// What the API server takes of an Event (k8s.io/kubernetes/pkg/apis/core/validation).
const (
	noteLimit = 1024
	nameLimit = 253
)

// What one node says of itself becomes neither a long log line on every other, nor an
// Event that the API server refuses, nor a snapshot that quotes it all.
func TestLongTextsOfOthers(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	name := strings.Repeat("n", nameLimit)
	objs := []runtime.Object{&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", Annotations: map[string]string{
		apiv1.AnnotationNodeIPv4: long, apiv1.AnnotationNodeAS: long, apiv1.AnnotationNodeRouteReflector: long,
	}}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2", UID: "v", Annotations: map[string]string{
		apiv1.AnnotationNodeIPv6: long, apiv1.AnnotationNodeIPIPTunnelAddr: long,
	}}}}
	bad := pool("long", long)
	bad.Object["spec"].(map[string]any)["nodeSelector"] = "== " + long
	reservation := pool("many", "")
	reservation.Object["kind"] = "IPReservation"
	reservation.Object["spec"] = map[string]any{"reservedCIDRs": slicesOf(strings.Repeat("y", 100), 5000)}
	d, _, kube := start(t, objs, bad, reservation)
	s := eventually(t, d, "four objects are reported", func(s *Snapshot) bool { return len(s.Invalid) == 4 })
	for _, i := range s.Invalid {
		if len(i.Reason) > noteLimit {
			t.Errorf("%s %.20s: the reason has %d bytes", i.Kind, i.Name, len(i.Reason))
		}
		if i.Kind == kindNode && !strings.Contains(i.Reason, "annotation projectcalico.org/") ||
			i.Kind == kindReservation && !strings.Contains(i.Reason, "its other entries are used") {
			t.Errorf("%s %.20s: %s", i.Kind, i.Name, i.Reason)
		}
	}
	deadline := time.After(30 * time.Second)
	for {
		events, err := kube.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if len(e.Note) > noteLimit || len(e.Name) > nameLimit {
				t.Errorf("Event about %s %.20s: note of %d bytes, name of %d", e.Regarding.Kind, e.Regarding.Name, len(e.Note), len(e.Name))
			}
		}
		if len(events.Items) == 4 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d Events, want 4", len(events.Items))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func slicesOf(s string, n int) (out []any) {
	for range n {
		out = append(out, s)
	}
	return out
}

// However often an object is written with another fault, what is remembered of it and
// said about it has a bound; the last fault is said when it stays.
func TestReportsAreBounded(t *testing.T) {
	var log lockedBuffer
	var woken []time.Duration
	now := time.Unix(1e9, 0)
	w := newEventWriter(fake.NewClientset(), slog.New(slog.NewTextHandler(&log, nil)), nil)
	w.now, w.again = func() time.Time { return now }, func(d time.Duration) { woken = append(woken, d) }
	exists := true
	report := func(reason string) {
		w.report([]Invalid{{Kind: kindNode, Name: "node-1", Reason: reason}}, func(string, string) (types.UID, bool) { return "u", exists })
	}
	const values = 20_000
	for i := range values {
		report(fmt.Sprintf("bad value %d", i))
		report(fmt.Sprintf("bad value %d", i)) // again, at the next snapshot
	}
	if n := strings.Count(log.String(), "\n"); n > tellTimes+1 || len(w.told)+len(w.objects) > 2 || len(w.queue) > tellTimes {
		t.Errorf("%d log lines, %d Events and %d entries of %d bad values of one Node", n, len(w.queue), len(w.told)+len(w.objects), values)
	}
	last := fmt.Sprintf("bad value %d", values-1)
	if strings.Contains(log.String(), last) || len(woken) != 1 {
		t.Fatalf("the last of them is told already, or will not be: %v", woken)
	}
	now = now.Add(woken[0])
	report(last)
	report(last)
	if strings.Count(log.String(), last) != 1 {
		t.Errorf("the fault that stays is told %d times", strings.Count(log.String(), last))
	}
	exists = false
	report(last)
	if len(w.told)+len(w.objects) != 0 {
		t.Errorf("%d entries of a Node that is gone", len(w.told)+len(w.objects))
	}
}

// lockedBuffer is a log that may be written from several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
