package ctl

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// What manx-controllers said of policies goes; what others said stays.
func TestForgetNamespaces(t *testing.T) {
	client := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NamespaceStatus{Conditions: []corev1.NamespaceCondition{
			{Type: "Mine", Status: corev1.ConditionTrue}, {Type: apiv1.ConditionNamespacePolicy, Status: corev1.ConditionFalse},
		}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "b"}},
	)
	if err := (uninstaller{client: client}).forgetNamespaces(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := client.CoreV1().Namespaces().Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || len(n.Status.Conditions) != 1 || n.Status.Conditions[0].Type != "Mine" {
		t.Errorf("%+v, %v", n.Status.Conditions, err)
	}
	patches := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "patch" {
			patches++
		}
	}
	if patches != 1 {
		t.Errorf("%d patches, want one", patches)
	}
}
