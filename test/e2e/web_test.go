//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/runner"
)

// webManifest is the web pods of a full lab and their Service; webService that of a light one.
const webManifest = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: web, image: "` + image.Agnhost + `", imagePullPolicy: Never, args: ["netexec", "--http-port=80"]}
---` + webService

const webService = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 80, nodePort: 32000}]
`

// webPod is the web pod of a light node, where no DaemonSet makes it.
func webPod(node string) *corev1.Pod {
	pod := lab.Pod{Namespace: "default", Name: "web-" + node, Node: node, Labels: map[string]string{"app": "web"}, Port: 80}.Object()
	pod.Spec.Containers[0].Name = "web"
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/hostname", Port: intstr.FromInt32(80)}},
		PeriodSeconds: 60, // once it is there it stays
	}
	return pod
}

// webOnLight makes the web pods of a light lab, one after the other on each node, so that
// the first of a node's addresses is its web pod's.
func webOnLight(ctx context.Context) error {
	nodes, err := cluster.Nodes()
	if err != nil {
		return err
	}
	if err := createService(ctx); err != nil {
		return err
	}
	var g errgroup.Group
	for _, node := range nodes {
		g.Go(func() error { return makeWeb(ctx, node) })
	}
	g.Go(func() error { return cluster.WaitReady(ctx) })
	if err := g.Wait(); err != nil || len(shape.With) == 0 || shape.ServicesOnCall {
		return err
	}
	return servicesServe(ctx)
}

// servicesServe waits until a page is served at the NodePort of each node: kube-proxy
// follows the web pods within a second or two.
func servicesServe(ctx context.Context) error {
	nodes, err := cluster.Nodes()
	if err != nil {
		return err
	}
	for _, node := range nodes {
		addr, err := cluster.Addr(node)
		if err != nil {
			return err
		}
		page := fetch(layout.Outside, fmt.Sprintf("http://%s:32000/hostname", addr))
		if err := until(ctx, "NodePort of "+node, func(ctx context.Context) error { _, err := page(ctx); return err }); err != nil {
			return err
		}
	}
	return nil
}

func createService(ctx context.Context) error {
	var out strings.Builder
	o := lab.ExecOptions{Stdin: strings.NewReader(webService), Stdout: &out, Stderr: &out}
	if len(shape.With) == 0 {
		return nil
	}
	if err := cluster.KubectlWith(ctx, o, "create", "-f", "-"); err != nil && !strings.Contains(out.String(), "AlreadyExists") {
		return fmt.Errorf("create the Service: %w: %s", err, out.String())
	}
	return nil
}

// makeWeb makes a node's web pod, if it is not there, and waits until it is ready.
func makeWeb(ctx context.Context, node string) error {
	if _, err := podOn(ctx, "default", "app=web", node); err != nil {
		if _, err := client.CoreV1().Pods("default").Create(ctx, webPod(node), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("the web pod of %s: %w", node, err)
		}
	}
	return until(ctx, "web pod of "+node, func(ctx context.Context) error {
		pod, err := podOn(ctx, "default", "app=web", node)
		if err != nil {
			return err
		}
		return podReady(pod)
	})
}

// execIn runs a command in a pod, of namespaces on a node of a light lab without a detour
// by the API server, and with kubectl on a full one.
func execIn(ctx context.Context, pod *corev1.Pod, args ...string) (string, error) {
	if !shape.Light {
		return cluster.Kubectl(ctx, append([]string{"-n", pod.Namespace, "exec", pod.Name, "--"}, args...)...)
	}
	return cluster.Exec(ctx, pod.Spec.NodeName,
		append([]string{"nsenter", "--net=" + runner.NetNSLink(pod.Namespace, pod.Name), "--"}, args...)...)
}
