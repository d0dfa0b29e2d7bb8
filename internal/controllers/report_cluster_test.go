//go:build cluster

package controllers

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	v1 "github.com/manx-cni/manx/api/v1"
)

// settingsReport: with the manifest's rights, what is set without effect is told on the
// objects and in the namespaces, and the object that calicoctl asks for is there.
func (c *testCluster) settingsReport(t *testing.T) {
	custom := dynamic.NewForConfigOrDie(c.admin)
	create := func(plural, kind, name string, spec map[string]any) {
		t.Helper()
		_, err := custom.Resource(v1.SchemeGroupVersion.WithResource(plural)).Create(t.Context(),
			&unstructured.Unstructured{Object: map[string]any{
				"apiVersion": v1.SchemeGroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
			}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	create(v1.PluralBGPPeers, "BGPPeer", "tor", map[string]any{"peerIP": "192.0.2.1", "asNumber": int64(65001),
		"password": map[string]any{"secretKeyRef": map[string]any{"name": "s", "key": "k", "optional": true}}})
	create(v1.PluralIPPools, "IPPool", "vxlan", map[string]any{"cidr": "10.77.0.0/24", "vxlanMode": "Always"})
	if _, err := c.kube.NetworkingV1().NetworkPolicies("ns").Create(t.Context(),
		&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Events", func() string {
		missing := map[string]bool{
			"default BGPPeer tor SettingWithoutEffect": true, "default IPPool vxlan SettingRefused": true,
			"ns NetworkPolicy deny NetworkPolicyNotEnforced": true,
		}
		list, err := c.kube.EventsV1().Events(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, e := range list.Items {
			delete(missing, strings.Join([]string{e.Namespace, e.Regarding.Kind, e.Regarding.Name, e.Reason}, " "))
		}
		for m := range missing {
			return "no Event " + m
		}
		return ""
	})
	condition := func() string {
		n, err := c.kube.CoreV1().Namespaces().Get(t.Context(), "ns", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == v1.ConditionNamespacePolicy {
				return string(cond.Status)
			}
		}
		return "none"
	}
	eventually(t, "the namespace's condition", func() string { return strings.TrimPrefix(condition(), "False") })
	if err := c.kube.NetworkingV1().NetworkPolicies("ns").Delete(t.Context(), "deny", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no condition without policies", func() string { return strings.TrimPrefix(condition(), "none") })
	eventually(t, "the pool is not ready", func() string {
		p := c.getPool("vxlan")
		if p.Status == nil || len(p.Status.Conditions) != 2 {
			return "no status"
		}
		return strings.TrimPrefix(p.Status.Conditions[0].Reason+" "+p.Status.Conditions[1].Reason,
			v1.PoolEncapsulation+" "+v1.ReasonSettingRefused)
	})
	eventually(t, "the object of Calico's tools", func() string {
		_, err := custom.Resource(v1.SchemeGroupVersion.WithResource(v1.PluralKubeControllersConfigurations)).Get(t.Context(),
			v1.DefaultName, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return ""
	})
	if err := custom.Resource(v1.SchemeGroupVersion.WithResource(v1.PluralIPPools)).Delete(t.Context(),
		"vxlan", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
