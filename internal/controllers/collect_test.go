package controllers

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/manx-cni/manx/ipam/gc"
)

func TestLookEvery(t *testing.T) {
	for grace, want := range map[time.Duration]time.Duration{
		15 * time.Minute: time.Minute, time.Minute: 30 * time.Second, time.Second: minLook, 0: time.Minute,
	} {
		if got := lookEvery(grace); got != want {
			t.Errorf("grace %s: every %s, want %s", grace, got, want)
		}
	}
}

// TestLook goes through an API server that answers, one that does not, and one
// that has forgotten something.
func TestLook(t *testing.T) {
	core, custom := clusterObjects(t)
	w := startWatch(t, core, custom...)
	kube := kubefake.NewClientset()
	now := time.Unix(1000, 0)
	var swept []gc.Plan
	c := &collector{
		watch: w, kube: kube, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now }, beat: func() {},
		sweep: func(_ context.Context, plan gc.Plan, epoch uint64) error {
			if epoch != w.epoch.now() {
				t.Errorf("a plan of epoch %d, now is %d", epoch, w.epoch.now())
			}
			swept = append(swept, plan)
			return nil
		},
	}
	look := func() error {
		t.Helper()
		_, err := c.look(t.Context(), time.Minute)
		return err
	}
	if err := look(); !errors.Is(err, errBackwards) { // it is at an earlier version than the watch
		t.Errorf("the API server has forgotten something: %v", err)
	}
	answers := func(list *corev1.PodList, err error) {
		kube.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, list, err })
	}
	answers(&corev1.PodList{}, nil)
	if err := look(); err != nil || len(swept) != 0 || c.candidates.Load() == nil {
		t.Fatalf("first look: %v, %d plans", err, len(swept))
	}
	now = now.Add(time.Minute)
	down := errors.New("connection refused")
	answers(&corev1.PodList{}, down)
	before := w.epoch.now()
	if err := look(); !errors.Is(err, down) || w.epoch.now() == before {
		t.Errorf("the API server is away: %v, epoch %d", err, w.epoch.now())
	}
	answers(&corev1.PodList{}, nil)
	if err := look(); err != nil || len(swept) != 0 {
		t.Errorf("the first look of an epoch: %v, %d plans", err, len(swept))
	}
	now = now.Add(time.Minute)
	if err := look(); err != nil || len(swept) != 1 || len(swept[0].Handles) != 1 || swept[0].Handles[0].ID != "k.X" {
		t.Errorf("the second look: %v, %+v", err, swept)
	}
}

// TestSettingsWake: new settings do not wait for the next look of the old ones, which
// may be a minute away.
func TestSettingsWake(t *testing.T) {
	core, custom := clusterObjects(t) // with a KubeControllersConfiguration
	w := startWatch(t, core, custom...)
	kube := kubefake.NewClientset()
	kube.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, &corev1.PodList{}, nil })
	looks := make(chan struct{}, 10)
	c := &collector{
		watch: w, kube: kube, log: slog.New(slog.DiscardHandler), now: time.Now, grace: time.Hour,
		beat: func() { looks <- struct{}{} }, sweep: func(context.Context, gc.Plan, uint64) error { return nil },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()
	// One when it starts, one for the settings that the watch has heard of, one for these.
	for i := range 3 {
		select {
		case <-looks:
		case <-time.After(30 * time.Second):
			t.Fatalf("%d looks, want 3", i)
		}
		if i == 1 {
			w.configured <- struct{}{}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
