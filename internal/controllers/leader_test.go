package controllers

import (
	"context"
	"log/slog"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"
)

// TestLease shows that one of two leads, that the other follows at once when the
// first is stopped, and that the lease is given up only after the work has ended.
func TestLease(t *testing.T) {
	kube := kubefake.NewClientset()
	times := leaseTimes{lease: 60 * time.Second, renew: 40 * time.Second, retry: 10 * time.Millisecond}
	type one struct {
		leads chan struct{} // closed when it leads
		stop  context.CancelFunc
		done  chan error
	}
	holder := func() string {
		l, err := kube.CoordinationV1().Leases("kube-system").Get(t.Context(), leaseName, metav1.GetOptions{})
		if err != nil {
			t.Error(err)
			return ""
		}
		return *l.Spec.HolderIdentity
	}
	run := func() one {
		ctx, stop := context.WithCancel(t.Context())
		o := one{leads: make(chan struct{}), stop: stop, done: make(chan error, 1)}
		go func() {
			o.done <- whileLeading(ctx, kube, "kube-system", times, slog.New(slog.DiscardHandler), func(ctx context.Context) {
				close(o.leads)
				<-ctx.Done()
				if holder() == "" {
					t.Error("the lease is given up while the work goes on")
				}
			})
		}()
		return o
	}
	await := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not within 30 s", what)
		}
	}
	first := run()
	await("the first leads", first.leads)
	second := run()
	select {
	case <-second.leads:
		t.Fatal("two lead")
	case <-time.After(100 * time.Millisecond): // many tries
	}
	first.stop()
	if err := <-first.done; err != nil {
		t.Error(err)
	}
	await("the second follows, long before the lease ends", second.leads)
	third := run()
	third.stop() // while it waits
	if err := <-third.done; err != nil {
		t.Error(err)
	}
	second.stop()
	if err := <-second.done; err != nil {
		t.Error(err)
	}
	if h := holder(); h != "" {
		t.Errorf("the lease is still held by %s", h)
	}
}
