package datastore

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/bgpconfig"
)

// TestPasswords: a password is what its Secret says now; one that cannot be read holds the
// sessions, with the reason, and no object shows its value.
func TestPasswords(t *testing.T) {
	conf := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "BGPConfiguration", "metadata": map[string]any{"name": "default"},
		"spec": map[string]any{"nodeMeshPassword": map[string]any{"secretKeyRef": map[string]any{"name": "bgp-secrets", "key": "mesh"}}},
	}}
	key := bgpconfig.SecretKey{Name: "bgp-secrets", Key: "mesh"}
	d, _, kube := start(t, nil, conf)
	held := func(want string) {
		t.Helper()
		eventually(t, d, "held: "+want, func(s *Snapshot) bool {
			p := s.Password(key)
			return p.Value.Reveal() == "" && strings.Contains(p.Held, want)
		})
	}
	known := func(want string) {
		t.Helper()
		s := eventually(t, d, "the password", func(s *Snapshot) bool {
			p := s.Password(key)
			return p.Value.Reveal() == want && p.Held == ""
		})
		if strings.Contains(s.Password(key).Value.String(), want) {
			t.Error("the password shows")
		}
	}
	client := kube.CoreV1().Secrets(SecretNamespace)
	put := func(data map[string][]byte) {
		t.Helper()
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bgp-secrets", Namespace: SecretNamespace}, Data: data}
		_, err := client.Update(t.Context(), secret, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.Create(t.Context(), secret, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	held("secret kube-system/bgp-secrets not found: create it")
	put(map[string][]byte{"other": []byte("x")})
	held("has no key mesh")
	put(map[string][]byte{"mesh": []byte("first")})
	known("first")
	put(map[string][]byte{"mesh": []byte("second")})
	known("second")
	put(map[string][]byte{"mesh": []byte(strings.Repeat("x", 81))})
	held("is 81 bytes long, and TCP-MD5 takes 1 to 80")
	if err := client.Delete(t.Context(), "bgp-secrets", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	held("not found")
}

// A Secret that the Role does not name is forbidden, and that is said with the Role.
func TestPasswordForbidden(t *testing.T) {
	conf := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "BGPPeer", "metadata": map[string]any{"name": "tor"},
		"spec": map[string]any{
			"peerIP": "10.0.0.254", "asNumber": int64(65001),
			"password": map[string]any{"secretKeyRef": map[string]any{"name": "mine", "key": "k"}},
		},
	}}
	dyn, kube := clients(nil, conf)
	kube.PrependReactor("list", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "mine", nil)
	})
	d := startWith(t, Config{Kubernetes: kube, Dynamic: dyn})
	eventually(t, d, "the reason", func(s *Snapshot) bool {
		p := s.Password(bgpconfig.SecretKey{Name: "mine", Key: "k"})
		return strings.Contains(p.Held, "add its name to the resourceNames of Role manx-node-bgp-secrets")
	})
}
