package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manx-cni/manx/internal/nodeapi"
)

// allocate has workers assign an address for a container of their own and release it,
// again and again. Each waits for its answer before it asks for the next.
func allocate(socket string, howLong time.Duration, workers int, pods []Pod) (*Span, error) {
	ctx, cancel := context.WithTimeout(context.Background(), howLong+time.Minute)
	defer cancel()
	var done atomic.Int64
	errs := make([]error, workers)
	span := &Span{From: time.Now()}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for errs[i] == nil && time.Since(span.From) < howLong {
				if errs[i] = assignAndRelease(ctx, socket, pods[i%len(pods)]); errs[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	span.To, span.Calls = time.Now(), int(done.Load())
	return span, errors.Join(errs...)
}

// assignAndRelease is an ADD that is given up once it has its address.
func assignAndRelease(ctx context.Context, socket string, pod Pod) error {
	c, err := nodeapi.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer c.Close()
	id := randomHex(32)
	if _, err = c.Add(ctx, nodeapi.AddRequest{IPv4: true, Endpoint: nodeapi.Endpoint{
		ContainerID: id, Namespace: pod.Namespace, Pod: pod.Name, PodUID: pod.UID,
		IfName: "eth0", Network: "k8s-pod-network", HostIface: nodeapi.HostIfaceName(pod.Namespace, pod.Name),
	}}); err == nil {
		err = c.Abort(ctx)
	}
	if err != nil {
		return fmt.Errorf("address for container %s of pod %s/%s: %w", id, pod.Namespace, pod.Name, err)
	}
	return nil
}
