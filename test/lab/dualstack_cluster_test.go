//go:build cluster

package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab"
)

// TestDualStack: Kubernetes itself has both families before there is a pod network, also
// on a node that comes later and on one that was off.
func TestDualStack(t *testing.T) {
	c := bringUp(t, lab.Options{Nodes: 1, DualStack: true})
	ctx := t.Context()
	client, err := c.Clientset()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddNode(ctx, "extra"); err != nil {
		t.Fatal(err)
	}
	if err := c.RestartNode(ctx, "node1"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"node1": "172.30.0.11 fd00:172:30::11", "extra": "172.30.0.12 fd00:172:30::12"} {
		eventually(t, "addresses of "+name, func() error { return internalIPs(ctx, c, name, want) })
	}
	out, err := c.Exec(ctx, "extra", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "fd00:172:30::11")
	if err != nil || strings.Count(out, "ttl=64") != 2 {
		t.Errorf("extra to node1: %v: want 2 answers with ttl=64:\n%s", err, out)
	}

	require := corev1.IPFamilyPolicyRequireDualStack
	svc, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "both"},
		Spec:       corev1.ServiceSpec{IPFamilyPolicy: &require, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ips := svc.Spec.ClusterIPs; len(ips) != 2 || !strings.HasPrefix(ips[0], "10.96.") || !strings.HasPrefix(ips[1], "fd00:10:96::") {
		t.Errorf("cluster IPs %q, want one of each family", ips)
	}
	// Without endpoints kube-proxy answers with ICMP; that it knows the service is enough here.
	eventually(t, "kube-proxy's IPv6 rules", func() error {
		rules, err := c.Exec(ctx, "node1", "ip6tables-save")
		if err == nil && !strings.Contains(rules, svc.Spec.ClusterIPs[len(svc.Spec.ClusterIPs)-1]) {
			err = fmt.Errorf("no %v in\n%s", svc.Spec.ClusterIPs, rules)
		}
		return err
	})

	cm, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kubeadm-config", metav1.GetOptions{})
	if err != nil || !strings.Contains(cm.Data["ClusterConfiguration"], "podSubnet: 10.244.0.0/16,fd00:10:244::/48\n") {
		t.Errorf("kubeadm-config: %v: %q", err, cm.Data)
	}
	if a, err := c.Addr6("outside"); err != nil || a.String() != "fd00:172:30::3" {
		t.Errorf("the outside host has %s, %v", a, err)
	}
	status, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := status.Print(&text); err != nil || !strings.Contains(text.String(), "172.30.0.11,fd00:172:30::11") {
		t.Errorf("status: %v\n%s", err, text.String())
	}
}

// internalIPs tells when a Node has other addresses than those.
func internalIPs(ctx context.Context, c *lab.Cluster, name, want string) error {
	out, err := c.Kubectl(ctx, "get", "node", name, "-o", "jsonpath={.status.addresses}")
	if err != nil {
		return err
	}
	var addrs []corev1.NodeAddress
	if err := json.Unmarshal([]byte(out), &addrs); err != nil {
		return err
	}
	var ips []string
	for _, a := range addrs {
		if a.Type == corev1.NodeInternalIP {
			ips = append(ips, a.Address)
		}
	}
	if got := strings.Join(ips, " "); got != want {
		return fmt.Errorf("InternalIP %s, want %s", got, want)
	}
	return nil
}
