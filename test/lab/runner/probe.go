package runner

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
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
	ready := func(is bool, why string) {
		w.mu.Lock()
		now := w.state.Containers[c.Name]
		same := now.Ready == is && now.Unready == why
		w.mu.Unlock()
		if !same {
			w.update(func(*state) { now.Ready, now.Unready = is, why })
		}
	}
	w.mu.Lock()
	was := w.state.Containers[c.Name].Ready
	w.mu.Unlock()
	p := c.ReadinessProbe
	if p == nil || p.HTTPGet == nil {
		ready(true, "")
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
	failures := 0
	for wait := eager; pause(ctx, wait); {
		if err := w.ask(ctx, client, p.HTTPGet); err != nil {
			failures++
			if failures >= threshold || !was {
				was = false
				ready(false, err.Error())
			}
		} else {
			failures, was = 0, true
			ready(true, "")
		}
		if wait = eager; was {
			wait = period
		}
	}
}

// dial opens a connection in the pod, not, as the kubelet does, from its node: a pod is
// ready whatever the network between does.
func (w *worker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if w.pod.Spec.HostNetwork {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
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
		host = w.Addrs[0].String()
		if ips := w.ips(); len(ips) > 0 {
			host = ips[0]
		}
	}
	if get.Port.Type != intstr.Int {
		return fmt.Errorf("a light node knows ports by number only, not %q", get.Port.StrVal)
	}
	url := "http://" + net.JoinHostPort(host, fmt.Sprint(get.Port.IntVal)) + "/" + strings.TrimLeft(get.Path, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("%s says %s: %s", url, resp.Status, strings.TrimSpace(string(said)))
	}
	return nil
}
