package startup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	v1 "github.com/manx-cni/manx/api/v1"
)

// requests lists every kind of request that a first start makes, in order.
func requests(t *testing.T, env ...string) (out []string) {
	c := newCluster(t, node("node-1"), node("node-2", v1.AnnotationNodeIPv4, "10.0.0.6/24"))
	c.mustRun(env...)
	for _, a := range append(c.kube.Actions(), c.dynamic.Actions()...) {
		if r := a.GetVerb() + " " + a.GetResource().Resource; !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// timeOut makes the next n requests of a kind time out; the last of those that write is
// done all the same, as one is whose answer was lost.
func (c *cluster) timeOut(request string, n int) {
	verb, resource, _ := strings.Cut(request, " ")
	fail := func(a clienttesting.Action) (bool, runtime.Object, error) {
		c.now = c.now.Add(requestTimeout)
		if n--; n < 0 {
			return false, nil, nil
		}
		if create, ok := a.(clienttesting.CreateAction); ok && n == 0 {
			if err := c.dynamic.Tracker().Create(a.GetResource(), create.GetObject(), a.GetNamespace()); err != nil {
				c.t.Error(err)
			}
		}
		return true, nil, fmt.Errorf("net/http: request canceled while waiting: %w", context.DeadlineExceeded)
	}
	c.kube.PrependReactor(verb, resource, fail)
	c.dynamic.PrependReactor(verb, resource, fail)
}

// The API server may stop answering at any request of the start, not only at the first.
func TestEveryRequestWaits(t *testing.T) {
	env := []string{"IP=autodetect", "CALICO_IPV4POOL_CIDR=10.244.0.0/16"}
	all := requests(t, env...)
	if len(all) < 9 {
		t.Fatalf("the start makes the requests %v", all)
	}
	for _, request := range all {
		t.Run(request, func(t *testing.T) {
			c := newCluster(t, node("node-1"), node("node-2", v1.AnnotationNodeIPv4, "10.0.0.6/24"))
			c.timeOut(request, 20)
			s := c.start(append(env, "WAIT_FOR_DATASTORE=true")...)
			var told []error
			s.Waits = func(err error) { told = append(told, err) }
			if _, err := s.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(c.pools()) != 1 || c.node("node-1").Annotations[v1.AnnotationNodeIPv4] != "10.0.0.5/24" {
				t.Errorf("pools %v, annotations %v", c.pools(), c.node("node-1").Annotations)
			}
			// 100 s and more of waiting: a line at its beginning, every 30 s, and at its end.
			if got := strings.Count(c.log.String(), "waiting for the Kubernetes API"); got < 3 || got > 5 || len(told) != 20 {
				t.Errorf("%d lines about waiting, told %d times:\n%s", got, len(told), c.log.String())
			}
			if text := told[0].Error(); !strings.Contains(text, "deadline exceeded") ||
				len(text) > 300 || !strings.Contains(c.log.String(), "Kubernetes API answers") {
				t.Errorf("told %s\n%s", text, c.log.String())
			}
		})
		t.Run(request+" without waiting", func(t *testing.T) {
			c := newCluster(t, node("node-1"), node("node-2", v1.AnnotationNodeIPv4, "10.0.0.6/24"))
			c.timeOut(request, 1)
			if _, err := c.run(append(env, "WAIT_FOR_DATASTORE=false")...); err == nil ||
				!strings.Contains(err.Error(), "set WAIT_FOR_DATASTORE=true") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// After the start nothing waits: the caller tries again at the next turn.
func TestRunningAgentDoesNotWait(t *testing.T) {
	c := newCluster(t, node("node-1"))
	s := c.start("IP=autodetect", "WAIT_FOR_DATASTORE=true")
	if _, err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.timeOut("patch nodes", 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.SetNetworkReady(ctx); err == nil || strings.Contains(err.Error(), "WAIT_FOR_DATASTORE") {
		t.Errorf("got %v", err)
	}
}
