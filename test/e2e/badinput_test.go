//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/layout"
)

// TestBadEnvironment runs the agent's program with one bad variable: one line names it, its value and what is accepted.
func TestBadEnvironment(t *testing.T) {
	onLab(t)
	program, err := filepath.Abs("../../bin/manx-node")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; \"make build\" makes it", err)
	}
	for _, c := range []struct{ variable, value, accepted string }{
		{"CALICO_IPV4POOL_CIDR", "banana", "want e.g. 10.244.0.0/16"},
		{"CALICO_IPV4POOL_CIDR", "10.0.0.0/30", "want a block size of 30 to 32"},
		{"IP_AUTODETECTION_METHOD", "banana", "want first-found, interface=REGEX"},
		{"IP_AUTODETECTION_METHOD", "interface=", "want first-found, interface=REGEX"},
		{"IP_AUTODETECTION_METHOD", "cidr=10.0.0.0/99", "want first-found, interface=REGEX"},
	} {
		t.Run(c.variable+"="+c.value, func(t *testing.T) {
			var out bytes.Buffer
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			p, err := cluster.Start(ctx, layout.Outside,
				lab.ExecOptions{Env: []string{c.variable + "=" + c.value}, Stdout: &out, Stderr: &out}, program, "run")
			if err != nil {
				t.Fatal(err)
			}
			var exit *exec.ExitError
			if err := p.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("ended with %v, want exit status 1", err)
			}
			line := strings.TrimSuffix(out.String(), "\n")
			if strings.Contains(line, "\n") {
				t.Errorf("more than one line:\n%s", line)
			}
			for _, want := range []string{c.variable, fmt.Sprintf("%q", c.value), c.accepted} {
				if !strings.Contains(line, want) {
					t.Errorf("no %s in %q", want, line)
				}
			}
		})
	}
}

func TestBadNetconf(t *testing.T) {
	onLab(t)
	scratch(t, "node1", "e2e-netconf")
	for _, c := range []struct {
		conf string
		code int
		want []string
	}{
		{`{"name":"k8s-pod-network","cniVersion":"1.0.0","type":"manx","mtu":"big"}`, 7, []string{"mtu", `"big"`, "want a number of bytes"}},
		{`{"name":"k8s-pod-network","cniVersion":"1.0.0","type":"manx","mtu":12}`, 7, []string{"mtu", "12", "576 to 65535"}},
		{`{"name":"k8s-pod-network","cniVersion":"1.0.0","type":"manx","ipam":{"type":"host-local"}}`,
			7, []string{"ipam.type", `"host-local"`, `"manx-ipam"`}},
		{`{"name":"k8s-pod-network","cniVersion":"1.0.0",`, 6, nil},
	} {
		_, e, _ := cni(t, "node1", "ADD", "e2e-netconf", c.conf)
		if e == nil {
			t.Errorf("%s: ADD succeeded", c.conf)
			continue
		}
		if e.Code != c.code || strings.Contains(e.Msg, "\n") {
			t.Errorf("%s: code %d, message %q; want code %d and one line", c.conf, e.Code, e.Msg, c.code)
		}
		for _, w := range c.want {
			if !strings.Contains(e.Msg, w) {
				t.Errorf("%s: no %s in %q", c.conf, w, e.Msg)
			}
		}
	}
}

// TestMalformedObjects: what does not make sense is ignored with an event, and every agent stays as it is.
func TestMalformedObjects(t *testing.T) {
	onLab(t)
	before := map[string]string{}
	restarts := map[string]int32{}
	for _, node := range nodeNames(t) {
		before[node] = on(t, node, "ip", "route")
		restarts[node] = agent(t, node).Status.ContainerStatuses[0].RestartCount
	}
	since := metav1.NewTime(time.Now().Truncate(time.Second))
	for _, c := range []struct{ name, spec, text string }{
		{"e2e-banana", `{"cidr":"banana"}`, "banana"},
		{"e2e-large", `{"cidr":"10.99.0.0/24","blockSize":64}`, "blockSize must be 20 to 32 for IPv4"},
	} {
		object := fmt.Sprintf(`{"apiVersion":"crd.projectcalico.org/v1","kind":"IPPool","metadata":{"name":%q},"spec":%s}`, c.name, c.spec)
		if err := createObject(t, object); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("a pool with %s: the API server says %v, want it rejected by the schema with %q", c.spec, err, c.text)
		}
	}
	// The schema of one object cannot see another, nor count addresses.
	for _, pool := range []string{
		`"metadata":{"name":"e2e-overlap"},"spec":{"cidr":"10.244.128.0/17","blockSize":26,"natOutgoing":true}`,
		`"metadata":{"name":"e2e-blocksize"},"spec":{"cidr":"10.99.0.0/28","blockSize":26}`,
		`"metadata":{"name":"e2e-multicast"},"spec":{"cidr":"239.1.0.0/16"}`,
	} {
		if err := createObject(t, `{"apiVersion":"crd.projectcalico.org/v1","kind":"IPPool",`+pool+`}`); err != nil {
			t.Fatal(err)
		}
	}
	phantom := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "e2e-phantom", Annotations: map[string]string{
		"projectcalico.org/IPv4Address": "not-an-address", "projectcalico.org/ASNumber": "-1",
	}}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "e2e", Effect: corev1.TaintEffectNoSchedule}}}} // no DaemonSet's pods
	if _, err := client.CoreV1().Nodes().Create(t.Context(), phantom, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cluster.Kubectl(context.Background(), "delete", "ippools.crd.projectcalico.org",
			"e2e-overlap", "e2e-blocksize", "e2e-multicast", "e2e-banana", "e2e-large", "--ignore-not-found")
		_ = client.CoreV1().Nodes().Delete(context.Background(), phantom.Name, *now())
	})
	for name, want := range map[string]string{
		"e2e-overlap":   "overlaps 10.244.0.0/16 of pool default-ipv4-ippool",
		"e2e-blocksize": "blockSize 26: a block must fit in the pool 10.99.0.0/28",
		"e2e-multicast": "multicast", "e2e-phantom": "not-an-address",
	} {
		eventually(t, "event about "+name, func(ctx context.Context) error { return eventSince(ctx, since, name, want) })
		if text := manxctl(t, "node1", "status"); !strings.Contains(text, name+" ignored: ") || !strings.Contains(text, want) {
			t.Errorf("manxctl status does not say that %s is ignored:\n%s", name, text)
		}
	}
	for _, node := range nodeNames(t) {
		pod := agent(t, node)
		if got := pod.Status.ContainerStatuses[0].RestartCount; got != restarts[node] {
			t.Errorf("the agent on %s was restarted %d times", node, got-restarts[node])
		}
		if got := on(t, node, "curl", "-sS", "--fail", "http://localhost:9099/readiness"); !strings.Contains(got, "ready") {
			t.Errorf("readiness on %s: %q", node, got)
		}
		if got := on(t, node, "ip", "route"); got != before[node] {
			t.Errorf("routes on %s changed from\n%sto\n%s", node, before[node], got)
		}
	}
	// A pod made now still gets its address from the good pool.
	pod := newPod("default", "after-malformed", "node1", image.Pause)
	createPod(t, pod)
	eventually(t, "pod ready", func(ctx context.Context) error {
		p, err := client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return podReady(p)
	})
	if err := client.CoreV1().Pods("default").Delete(t.Context(), pod.Name, *now()); err != nil {
		t.Fatal(err)
	}
	noLeak(t)
}

func createObject(t *testing.T, object string) error {
	t.Helper()
	var out strings.Builder
	o := lab.ExecOptions{Stdin: strings.NewReader(object), Stdout: &out, Stderr: &out}
	if err := cluster.KubectlWith(t.Context(), o, "create", "-f", "-"); err != nil {
		return fmt.Errorf("%w: %s", err, out.String())
	}
	return nil
}

func eventSince(ctx context.Context, since metav1.Time, object, text string) error {
	list, err := client.EventsV1().Events("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, e := range list.Items {
		if e.Regarding.Name == object && e.Type == corev1.EventTypeWarning &&
			strings.Contains(e.Note, text) && !e.CreationTimestamp.Before(&since) {
			return nil
		}
	}
	return fmt.Errorf("none of %d events is a warning about %s with %q", len(list.Items), object, text)
}
