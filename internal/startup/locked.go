package startup

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/manx-cni/manx/api/v1"
)

// locked reports whether the ClusterInformation default has datastoreReady false: then
// no pool and no default object is made, since those that are missing may be on their
// way here.
func (s *Startup) locked(ctx context.Context) (bool, error) {
	have, err := s.get(ctx, v1.PluralClusterInformations)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read ClusterInformation default: %w", err)
	}
	var info v1.ClusterInformation
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(have.Object, &info); err != nil {
		return false, nil // not of the schema: counts as absent, the datastore reports it
	}
	return info.Locked(), nil
}
