package settingsreport

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// ensureDefaults makes the KubeControllersConfiguration default where there is none:
// Calico's controllers always have one, and calicoctl ipam check ends without it. The
// one field is what calicoctl reads without asking whether it is there, and says what
// is true: Services get no addresses. What exists is the user's and stays as it is.
func (r *Reporter) ensureDefaults(ctx context.Context) error {
	if _, found, err := r.objects["KubeControllersConfiguration"].GetStore().GetByKey(apiv1.DefaultName); err != nil || found || r.Locked() {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := r.Dynamic.Resource(apiv1.SchemeGroupVersion.WithResource(apiv1.PluralKubeControllersConfigurations)).Create(ctx,
		&unstructured.Unstructured{
			Object: map[string]any{
				"apiVersion": apiv1.SchemeGroupVersion.String(), "kind": "KubeControllersConfiguration",
				"metadata": map[string]any{"name": apiv1.DefaultName},
				"spec":     map[string]any{"controllers": map[string]any{"loadBalancer": map[string]any{"assignIPs": "RequestedServicesOnly"}}},
			},
		}, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil
	case err != nil:
		return fmt.Errorf("create KubeControllersConfiguration %s: %w", apiv1.DefaultName, err)
	}
	r.Log.Info("default object created", "kind", "KubeControllersConfiguration", "name", apiv1.DefaultName)
	return nil
}
