package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// forgetNamespaces takes from the namespaces what manx-controllers said there of their
// NetworkPolicies, which another plugin may enforce.
func (u uninstaller) forgetNamespaces(ctx context.Context) error {
	namespaces, err := u.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	patch, err := json.Marshal(map[string]any{
		"status": map[string]any{"conditions": []any{map[string]any{"type": apiv1.ConditionNamespacePolicy, "$patch": "delete"}}},
	})
	if err != nil {
		return err
	}
	for _, n := range namespaces.Items {
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NamespaceCondition) bool { return c.Type == apiv1.ConditionNamespacePolicy }) {
			continue
		}
		if _, err := u.client.CoreV1().Namespaces().Patch(ctx, n.Name, types.StrategicMergePatchType,
			patch, metav1.PatchOptions{}, "status"); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("take the condition from namespace %s: %w", n.Name, err)
		}
	}
	return nil
}
