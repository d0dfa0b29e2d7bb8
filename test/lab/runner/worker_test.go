package runner

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab/contain"
	"github.com/manx-cni/manx/test/lab/proc"
)

func testWorker(t *testing.T) *worker {
	t.Helper()
	r := &runner{Config: Config{Node: "node1", Addrs: []netip.Addr{netip.MustParseAddr("172.30.0.11")}}, log: slog.New(slog.DiscardHandler)}
	w := newWorker(r, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}},
	}, false)
	w.dir = t.TempDir()
	return w
}

// TestConcurrent has everyone use a pod's state at once, for the race detector; the file
// has at the end what the memory has.
func TestConcurrent(t *testing.T) {
	w := testWorker(t)
	w.state.Containers["c"] = &container{}
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for i := range 20 {
				w.update(func(s *state) {
					s.IPs, s.Sandbox = []string{"10.244.0.1"}, "id"
					s.Containers["c"].Restarts++
					s.Containers["c"].Ready = i%2 == 0
				})
			}
		})
		g.Go(func() {
			for range 20 {
				_ = w.status(corev1.PodStatus{})
				_, _, _ = w.ips(), w.netns(), w.attachment()
			}
		})
	}
	g.Wait()
	b, err := os.ReadFile(filepath.Join(w.dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	var kept state
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	if n := kept.Containers["c"].Restarts; n != 160 {
		t.Errorf("the file has %d restarts, want 160", n)
	}
}

func TestStatus(t *testing.T) {
	w := testWorker(t)
	find := func(s corev1.PodStatus) corev1.PodCondition {
		i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
		return s.Conditions[i]
	}
	s := w.status(corev1.PodStatus{})
	if c := find(s); s.Phase != corev1.PodPending || c.Status != corev1.ConditionFalse || c.Message != "container c does not run" {
		t.Errorf("before it runs: %s, %+v", s.Phase, c)
	}
	w.state.Containers["c"] = &container{ID: "1", Process: proc.ID{PID: 1, Start: 1}, Unready: "no sessions"}
	s = w.status(s)
	if c := find(s); s.Phase != corev1.PodRunning || c.Message != "container c is not ready: no sessions" {
		t.Errorf("not ready: %s, %+v", s.Phase, c)
	}
	since := find(s).LastTransitionTime
	w.state.Containers["c"].Ready = true
	s = w.status(s)
	if c := find(s); c.Status != corev1.ConditionTrue || c.Message != "" {
		t.Errorf("ready: %+v", c)
	}
	if again := w.status(s); find(again).LastTransitionTime != find(s).LastTransitionTime || since.IsZero() {
		t.Error("a condition that stays has another time")
	}
}

// TestStatusPatch: two addresses of one type stay two.
func TestStatusPatch(t *testing.T) {
	b, err := statusPatch(corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "172.30.0.11"}, {Type: corev1.NodeInternalIP, Address: "fd00::11"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	const want = `"addresses":[{"$patch":"replace"},{"type":"InternalIP","address":"172.30.0.11"},{"type":"InternalIP","address":"fd00::11"}]`
	if !strings.Contains(string(b), want) {
		t.Errorf("the patch is\n%s\nwithout\n%s", b, want)
	}
}

func TestSecure(t *testing.T) {
	yes, no, user := true, false, int64(65532)
	for name, c := range map[string]struct {
		pod  *corev1.PodSecurityContext
		sc   *corev1.SecurityContext
		want contain.Spec
	}{
		"nothing said": {nil, nil, contain.Spec{Capabilities: contain.DefaultCapabilities()}},
		"all dropped, one added": {nil,
			&corev1.SecurityContext{
				Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN"}},
				AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			},
			contain.Spec{Capabilities: []string{"NET_ADMIN"}, NoNewPrivs: true, ReadOnly: true}},
		"a user of the pod's": {&corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user},
			&corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			contain.Spec{UID: 65532, GID: 65532, Capabilities: []string{}}},
	} {
		var got contain.Spec
		secure(&got, c.pod, c.sc)
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(c.want)
		if string(a) != string(b) {
			t.Errorf("%s: %s, want %s", name, a, b)
		}
	}
}
