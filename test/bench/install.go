package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/image"
)

// install makes the cluster, waits for its agents, and gives each node pods that only
// its agent knows: the kubelets are frozen first. So the plugin is run for pods that
// exist, as by a kubelet, and nobody else uses the node.
func (b *bench) install(ctx context.Context, archive, manifest string, pods int) (err error) {
	if err := b.lab(ctx, "up", "--nodes", "3", "--audit", "--image", archive, "--manifest", manifest, "--mode", "bgp"); err != nil {
		return err
	}
	if b.cluster, err = lab.Open(b.name); err != nil {
		return err
	}
	if b.nodes, err = b.cluster.Nodes(); err != nil {
		return err
	}
	for _, workload := range []string{"daemonset/manx-node", "deployment/manx-controllers"} {
		if _, err := b.cluster.Kubectl(ctx, "-n", "kube-system", "rollout", "status", workload, "--timeout=180s"); err != nil {
			return err
		}
	}
	client, err := b.cluster.Clientset()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d pods on each node\n", pods)
	b.pods = map[string][]byte{}
	for _, node := range b.nodes {
		if _, err := b.cluster.Exec(ctx, node, "pkill", "-STOP", "-x", "kubelet"); err != nil {
			return err
		}
		if b.pods[node], err = paperPods(ctx, client, node, pods); err != nil {
			return fmt.Errorf("make pods for %s: %w", node, err)
		}
	}
	return nil
}

// paperPods makes pods that nobody starts and returns them as cnibench reads them.
func paperPods(ctx context.Context, client kubernetes.Interface, node string, n int) ([]byte, error) {
	type known struct{ Namespace, Name, UID string }
	var all []known
	for i := range n {
		pod, err := client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%s-%03d", node, i)},
			Spec: corev1.PodSpec{
				NodeName:   node,
				Containers: []corev1.Container{{Name: "c", Image: image.Pause, ImagePullPolicy: corev1.PullNever}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		all = append(all, known{pod.Namespace, pod.Name, string(pod.UID)})
	}
	return json.Marshal(all)
}
