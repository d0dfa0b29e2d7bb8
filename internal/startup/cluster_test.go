//go:build cluster

package startup

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// A real API server accepts what the start writes, with no more rights than the
// role below has, and the second start writes nothing.
func TestRealAPIServer(t *testing.T) {
	ctx := t.Context()
	admin := apiserver.Start(t)
	kube, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	if _, err := kube.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	grant(t, kube, "manx", []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list"}},
		{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{v1.GroupName}, Resources: []string{v1.PluralIPPools}, Verbs: []string{"list", "create"}},
		{APIGroups: []string{v1.GroupName}, Verbs: []string{"get", "create"},
			Resources: []string{v1.PluralClusterInformations, v1.PluralFelixConfigurations, v1.PluralBGPConfigurations}},
	})
	agent := rest.CopyConfig(admin)
	agent.Impersonate = rest.ImpersonationConfig{UserName: "manx"}
	set, _, err := config.Parse([]string{"IP=autodetect", "AS=65001", "WAIT_FOR_DATASTORE=true", "CALICO_IPV4POOL_CIDR=10.244.0.0/16"})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{
		Settings: set, NodeName: "node-1", Log: slog.New(slog.DiscardHandler),
		Kubernetes: kubernetes.NewForConfigOrDie(agent), Dynamic: dynamic.NewForConfigOrDie(agent),
		Interfaces: func() ([]autodetect.Interface, error) {
			return []autodetect.Interface{{Name: "eth0", Index: 2, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}}}, nil
		},
	})
	start := func() string {
		t.Helper()
		if _, err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.SetNetworkReady(ctx); err != nil {
			t.Fatal(err)
		}
		return versions(ctx, t, kube, dynamic.NewForConfigOrDie(admin))
	}
	first := start()
	if second := start(); second != first {
		t.Errorf("the second start wrote: resource versions %s, then %s", first, second)
	}
	got, err := kube.CoreV1().Nodes().Get(ctx, "node-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a := got.Annotations; a[v1.AnnotationNodeIPv4] != "10.0.0.5/24" || a[v1.AnnotationNodeAS] != "65001" {
		t.Errorf("annotations %v", a)
	}
	if c := got.Status.Conditions; len(c) != 1 || c[0].Type != corev1.NodeNetworkUnavailable || c[0].Status != corev1.ConditionFalse {
		t.Errorf("conditions %+v", c)
	}
}

// grant gives user the rules, cluster-wide.
func grant(t *testing.T, kube kubernetes.Interface, user string, rules []rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: user}
	if _, err := kube.RbacV1().ClusterRoles().Create(t.Context(),
		&rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// versions names everything the start writes with its resource version.
func versions(ctx context.Context, t *testing.T, kube kubernetes.Interface, dyn dynamic.Interface) (out string) {
	t.Helper()
	n, err := kube.CoreV1().Nodes().Get(ctx, "node-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out = "node " + n.ResourceVersion
	for _, plural := range []string{v1.PluralIPPools, v1.PluralClusterInformations, v1.PluralFelixConfigurations, v1.PluralBGPConfigurations} {
		l, err := dyn.Resource(v1.SchemeGroupVersion.WithResource(plural)).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Items) != 1 {
			t.Errorf("%d objects of %s, want 1", len(l.Items), plural)
		}
		for _, o := range l.Items {
			out += ", " + plural + " " + o.GetName() + " " + o.GetResourceVersion()
		}
	}
	return out
}
