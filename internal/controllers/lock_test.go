package controllers

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/gc"
)

// While the datastore is locked nothing is collected, and afterwards everything has to
// look unused again. TestLook is the control: there the same handle is collected.
func TestNothingIsCollectedWhileLocked(t *testing.T) {
	core, custom := clusterObjects(t)
	no := false
	custom = append(custom, raw(t, "ClusterInformation", "default", v1.ClusterInformationSpec{DatastoreReady: &no}))
	w := startWatch(t, core, custom...)
	kube := kubefake.NewClientset()
	kube.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, &corev1.PodList{}, nil })
	now := time.Unix(1000, 0)
	swept := 0
	c := &collector{
		watch: w, kube: kube, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now }, beat: func() {},
		sweep: func(context.Context, gc.Plan, uint64) error { swept++; return nil },
	}
	look := func(what string, want int) {
		t.Helper()
		now = now.Add(time.Hour)
		if _, err := c.look(t.Context(), time.Minute); err != nil || swept != want {
			t.Errorf("%s: %d plans, %v; want %d", what, swept, err, want)
		}
	}
	look("locked", 0)
	look("locked", 0)
	store := w.informers[kindInformation].GetStore()
	told := 0
	changed := w.lockChanged(func() { told++ })
	changed() // as at the first list
	before := w.epoch.now()
	if err := store.Update(&kept[bool]{ObjectMeta: metav1.ObjectMeta{Name: v1.DefaultName}}); err != nil {
		t.Fatal(err)
	}
	changed()
	changed() // of something else in the object
	if told != 2 || w.epoch.now() != before+1 {
		t.Errorf("told %d times, epoch %d after %d", told, w.epoch.now(), before)
	}
	look("unlocked, for the first time", 0)
	look("unlocked", 1)
}
