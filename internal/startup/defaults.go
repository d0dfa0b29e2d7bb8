package startup

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	v1 "github.com/manx-cni/manx/api/v1"
)

// ensureDefaults creates the cluster-wide objects called default that are
// missing. What exists is the user's and stays as it is.
func (s *Startup) ensureDefaults(ctx context.Context, kubeadm bool) error {
	if locked, err := s.locked(ctx); err != nil || locked {
		return err
	}
	if err := s.ensureClusterInformation(ctx, kubeadm); err != nil {
		return err
	}
	meta := metav1.ObjectMeta{Name: v1.DefaultName}
	if err := s.ensure(ctx, "FelixConfiguration", v1.PluralFelixConfigurations, func() (runtime.Object, error) {
		return &v1.FelixConfiguration{ObjectMeta: meta, Spec: v1.FelixConfigurationSpec{
			LogSeverityScreen: "Info",
			ReportingInterval: &metav1.Duration{}, // 0s, off: what Calico writes too
		}}, nil
	}); err != nil {
		return err
	}
	return s.ensure(ctx, "BGPConfiguration", v1.PluralBGPConfigurations, func() (runtime.Object, error) {
		return &v1.BGPConfiguration{ObjectMeta: meta}, nil
	})
}

// ensureClusterInformation creates the cluster's identity. Its calicoVersion
// stays empty, since calicoctl refuses to work with a version that is not its own.
func (s *Startup) ensureClusterInformation(ctx context.Context, kubeadm bool) error {
	if _, err := s.get(ctx, v1.PluralClusterInformations); !apierrors.IsNotFound(err) {
		return err
	}
	return s.ensureAbsent(ctx, "ClusterInformation", v1.PluralClusterInformations, func() (runtime.Object, error) {
		guid := make([]byte, 16)
		if _, err := io.ReadFull(s.Random, guid); err != nil {
			return nil, fmt.Errorf("make the cluster's GUID: %w", err)
		}
		ready := true
		return &v1.ClusterInformation{ObjectMeta: metav1.ObjectMeta{Name: v1.DefaultName}, Spec: v1.ClusterInformationSpec{
			ClusterGUID:    hex.EncodeToString(guid),
			ClusterType:    clusterType(s.Settings.ClusterType, kubeadm),
			DatastoreReady: &ready,
		}}, nil
	})
}

// clusterType adds what is known of the cluster to CLUSTER_TYPE. kdd is Calico's
// word for the Kubernetes API as the datastore.
func clusterType(given string, kubeadm bool) string {
	var words []string
	add := func(w string) {
		if w = strings.TrimSpace(w); w != "" && !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	for w := range strings.SplitSeq(given, ",") {
		add(w)
	}
	if kubeadm {
		add("kubeadm")
	}
	add("kdd")
	return strings.Join(words, ",")
}

// ensure creates the object called default of a kind when it is missing.
func (s *Startup) ensure(ctx context.Context, kind, plural string, make func() (runtime.Object, error)) error {
	if _, err := s.get(ctx, plural); !apierrors.IsNotFound(err) {
		return err
	}
	return s.ensureAbsent(ctx, kind, plural, make)
}

// ensureAbsent creates an object that a read has just not found.
func (s *Startup) ensureAbsent(ctx context.Context, kind, plural string, make func() (runtime.Object, error)) error {
	obj, err := make()
	if err != nil {
		return err
	}
	created, err := s.create(ctx, kind, plural, obj)
	if created {
		s.Log.Info("default object created", "kind", kind, "name", v1.DefaultName)
	}
	return err
}

// get reads the object called default of a kind.
func (s *Startup) get(ctx context.Context, plural string) (o *unstructured.Unstructured, err error) {
	err = s.ask(ctx, fmt.Sprintf("read %s %s", plural, v1.DefaultName), requestTimeout, func(ctx context.Context) (err error) {
		o, err = s.Dynamic.Resource(v1.SchemeGroupVersion.WithResource(plural)).Get(ctx, v1.DefaultName, metav1.GetOptions{})
		return err
	})
	return o, err
}

// create creates obj. That another node was faster is as good; created is false then.
func (s *Startup) create(ctx context.Context, kind, plural string, obj runtime.Object) (created bool, err error) {
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return false, fmt.Errorf("encode %s: %w", kind, err)
	}
	u := &unstructured.Unstructured{Object: raw}
	u.SetGroupVersionKind(v1.SchemeGroupVersion.WithKind(kind))
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	err = s.ask(ctx, fmt.Sprintf("create %s %s", kind, u.GetName()), requestTimeout, func(ctx context.Context) error {
		_, err := s.Dynamic.Resource(v1.SchemeGroupVersion.WithResource(plural)).Create(ctx, u, metav1.CreateOptions{})
		return err
	})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsAlreadyExists(err):
		return false, nil
	case apierrors.IsNotFound(err):
		return false, fmt.Errorf("%w; the CustomResourceDefinitions of the Manx manifest are missing", err)
	}
	return false, err
}

// listTimeout bounds a list, which may be longer than one object.
const listTimeout = 2 * requestTimeout

func list[T any](ctx context.Context, s *Startup, plural string) ([]T, error) {
	var l *unstructured.UnstructuredList
	err := s.ask(ctx, "list "+plural, listTimeout, func(ctx context.Context) (err error) {
		l, err = s.Dynamic.Resource(v1.SchemeGroupVersion.WithResource(plural)).List(ctx, metav1.ListOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w; the CustomResourceDefinitions of the Manx manifest are missing", err)
	case err != nil:
		return nil, err
	}
	var out []T
	for _, item := range l.Items {
		var v T
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &v); err != nil {
			continue // not of the schema: counts as absent, the datastore reports it
		}
		out = append(out, v)
	}
	return out, nil
}
