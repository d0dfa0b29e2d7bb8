package runner

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/manx-cni/manx/test/lab/netns"
)

// eager is how often a container is asked that has just started.
const eager = 100 * time.Millisecond

// probe asks whether a container that runs is ready, until ctx ends. One without a
// readiness probe is.
func (w *worker) probe(ctx context.Context, c corev1.Container) {
	ready := func(is bool) {
		w.mu.Lock()
		now := w.state.Containers[c.Name]
		same := now.Ready == is
		now.Ready = is
		w.mu.Unlock()
		if !same {
			w.tell()
		}
	}
	p := c.ReadinessProbe
	if p == nil || p.HTTPGet == nil {
		ready(true)
		return
	}
	client := &http.Client{Timeout: max(time.Second, time.Duration(p.TimeoutSeconds)*time.Second), Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: w.dial,
	}}
	period, threshold := time.Duration(p.PeriodSeconds)*time.Second, int(p.FailureThreshold)
	if period == 0 {
		period = 10 * time.Second // Kubernetes' default
	}
	if threshold == 0 {
		threshold = 3 // likewise
	}
	failures, was := 0, false
	for wait := eager; pause(ctx, wait); {
		if err := w.ask(ctx, client, p.HTTPGet); err != nil {
			failures++
			if failures >= threshold {
				was = false
				ready(false)
			}
		} else {
			failures, was = 0, true
			ready(true)
		}
		if wait = eager; was {
			wait = period
		}
	}
}

// dial opens a connection from where the kubelet does: the node's network, from which its
// pods can be reached.
func (w *worker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if w.pod.Spec.HostNetwork {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	// In the pod, so that a pod is ready whatever the network between does.
	var conn net.Conn
	err := netns.Do(w.netns(), func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (w *worker) ask(ctx context.Context, client *http.Client, get *corev1.HTTPGetAction) error {
	host := get.Host
	if host == "" {
		host = "127.0.0.1"
	}
	if get.Port.Type != intstr.Int {
		return fmt.Errorf("a light node knows ports by number only, not %q", get.Port.StrVal)
	}
	url := "http://" + net.JoinHostPort(host, fmt.Sprint(get.Port.IntVal)) + "/" + trimSlash(get.Path)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("%s says %s", url, resp.Status)
	}
	return nil
}

func trimSlash(path string) string {
	for len(path) > 0 && path[0] == '/' {
		path = path[1:]
	}
	return path
}
