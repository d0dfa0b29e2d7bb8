//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// duplicates lists the addresses that more than one of the pods has. A pod whose
// containers have ended holds its address no more.
func duplicates(pods []corev1.Pod) (found []string) {
	owner := map[string]string{}
	for _, p := range pods {
		if p.Spec.HostNetwork || p.Status.PodIP == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		name := p.Namespace + "/" + p.Name
		if other, ok := owner[p.Status.PodIP]; ok {
			found = append(found, fmt.Sprintf("%s and %s both have %s", other, name, p.Status.PodIP))
		}
		owner[p.Status.PodIP] = name
	}
	return found
}

// watchAddresses looks at all pods all the time until stop is called, which fails the test
// when two pods had one address at any look.
func watchAddresses(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var found []string
	looks, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// ResourceVersion 0 is answered from the API server's memory.
			list, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err != nil {
				continue // Counted by looks.
			}
			looks++
			for _, d := range duplicates(list.Items) {
				if !slices.Contains(found, d) {
					found = append(found, d)
				}
			}
		}
	}()
	return func() {
		t.Helper()
		cancel()
		<-done
		if looks < 10 || len(found) > 0 {
			t.Errorf("duplicate addresses in %d looks at all pods: %q", looks, found)
		}
	}
}

// TestDuplicatesControl shows that the look of the tests above it sees a duplicate.
func TestDuplicatesControl(t *testing.T) {
	pod := func(name, ip string, phase corev1.PodPhase) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name}, Status: corev1.PodStatus{PodIP: ip, Phase: phase}}
	}
	pods := []corev1.Pod{
		pod("a", "10.244.0.1", corev1.PodRunning), pod("b", "10.244.0.2", corev1.PodRunning), pod("c", "10.244.0.1", corev1.PodPending),
		pod("ended", "10.244.0.2", corev1.PodSucceeded), pod("new1", "", corev1.PodPending), pod("new2", "", corev1.PodPending),
	}
	if got := strings.Join(duplicates(pods), "; "); got != "n/a and n/c both have 10.244.0.1" {
		t.Errorf("duplicates: %q", got)
	}
}
