// Package crd keeps IPAM's objects as custom resources of the Kubernetes API, in
// group crd.projectcalico.org/v1. It holds no cache: the allocator has its own of
// the few objects that are this node's.
package crd

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
)

// Store is the Kubernetes API as a store.
type Store struct {
	client rest.Interface
	codec  runtime.ParameterCodec
}

// New makes a client of the API that cfg names. It does not connect.
func New(cfg *rest.Config) (*Store, error) {
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register %s: %w", v1.SchemeGroupVersion, err)
	}
	metav1.AddToGroupVersion(scheme, v1.SchemeGroupVersion)
	c := rest.CopyConfig(cfg)
	c.GroupVersion = &v1.SchemeGroupVersion
	c.APIPath = "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", v1.SchemeGroupVersion, err)
	}
	return &Store{client: client, codec: runtime.NewParameterCodec(scheme)}, nil
}

// Blocks implements store.Store.
func (s *Store) Blocks() store.Collection[v1.IPAMBlock] {
	return collection[v1.IPAMBlock, *v1.IPAMBlock, v1.IPAMBlockList, *v1.IPAMBlockList]{s, v1.PluralIPAMBlocks,
		func(l *v1.IPAMBlockList) []v1.IPAMBlock { return l.Items }}
}

// Affinities implements store.Store.
func (s *Store) Affinities() store.Collection[v1.BlockAffinity] {
	return collection[v1.BlockAffinity, *v1.BlockAffinity, v1.BlockAffinityList, *v1.BlockAffinityList]{s, v1.PluralBlockAffinities,
		func(l *v1.BlockAffinityList) []v1.BlockAffinity { return l.Items }}
}

// Handles implements store.Store.
func (s *Store) Handles() store.Collection[v1.IPAMHandle] {
	return collection[v1.IPAMHandle, *v1.IPAMHandle, v1.IPAMHandleList, *v1.IPAMHandleList]{s, v1.PluralIPAMHandles,
		func(l *v1.IPAMHandleList) []v1.IPAMHandle { return l.Items }}
}

// Configs implements store.Store.
func (s *Store) Configs() store.Collection[v1.IPAMConfig] {
	return collection[v1.IPAMConfig, *v1.IPAMConfig, v1.IPAMConfigList, *v1.IPAMConfigList]{s, v1.PluralIPAMConfigs,
		func(l *v1.IPAMConfigList) []v1.IPAMConfig { return l.Items }}
}

// Reservations implements store.Store.
func (s *Store) Reservations() store.Collection[v1.IPReservation] {
	return collection[v1.IPReservation, *v1.IPReservation, v1.IPReservationList, *v1.IPReservationList]{s, v1.PluralIPReservations,
		func(l *v1.IPReservationList) []v1.IPReservation { return l.Items }}
}

// object and list are pointers to T and L with the methods of API objects.
type object[T any] interface {
	*T
	runtime.Object
	metav1.Object
}

type list[L any] interface {
	*L
	runtime.Object
}

// collection implements store.Collection for one kind.
type collection[T any, P object[T], L any, PL list[L]] struct {
	store  *Store
	plural string
	items  func(*L) []T
}

func (c collection[T, P, L, PL]) Get(ctx context.Context, name string) (*T, error) {
	out := new(T)
	err := c.store.client.Get().Resource(c.plural).Name(name).Do(ctx).Into(P(out))
	return answer(out, c.fault("get", name, err))
}

// pageSize bounds one answer of a list.
const pageSize = 500

func (c collection[T, P, L, PL]) List(ctx context.Context, want map[string]string) ([]T, error) {
	opts := metav1.ListOptions{Limit: pageSize, LabelSelector: labels.SelectorFromSet(want).String()}
	var out []T
	for {
		page := new(L)
		if err := c.store.client.Get().Resource(c.plural).VersionedParams(&opts, c.store.codec).Do(ctx).Into(PL(page)); err != nil {
			return nil, c.fault("list", "", err)
		}
		out = append(out, c.items(page)...)
		meta, ok := any(page).(metav1.ListMetaAccessor)
		if !ok || meta.GetListMeta().GetContinue() == "" {
			return out, nil
		}
		opts.Continue = meta.GetListMeta().GetContinue()
	}
}

func (c collection[T, P, L, PL]) Create(ctx context.Context, obj *T) (*T, error) {
	out := new(T)
	err := c.store.client.Post().Resource(c.plural).Body(P(obj)).Do(ctx).Into(P(out))
	return answer(out, c.fault("create", P(obj).GetName(), err))
}

func (c collection[T, P, L, PL]) Update(ctx context.Context, obj *T) (*T, error) {
	if P(obj).GetResourceVersion() == "" {
		return nil, fmt.Errorf("update %s %s: no resource version: it would overwrite whatever is there", c.plural, P(obj).GetName())
	}
	out := new(T)
	err := c.store.client.Put().Resource(c.plural).Name(P(obj).GetName()).Body(P(obj)).Do(ctx).Into(P(out))
	return answer(out, c.fault("update", P(obj).GetName(), err))
}

func (c collection[T, P, L, PL]) Delete(ctx context.Context, obj *T) error {
	uid, version := P(obj).GetUID(), P(obj).GetResourceVersion()
	opts := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
	err := c.store.client.Delete().Resource(c.plural).Name(P(obj).GetName()).Body(&opts).Do(ctx).Error()
	return c.fault("delete", P(obj).GetName(), err)
}

func answer[T any](out *T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return out, nil
}

// fault gives an API error the store's meaning and says what was tried.
func (c collection[T, P, L, PL]) fault(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	var kind error
	switch {
	case apierrors.IsNotFound(err):
		kind = store.ErrNotFound
	case apierrors.IsAlreadyExists(err):
		kind = store.ErrExists
	case apierrors.IsConflict(err):
		kind = store.ErrConflict
	}
	return fmt.Errorf("%s %s %s: %w", verb, c.plural, name, errors.Join(kind, err))
}
