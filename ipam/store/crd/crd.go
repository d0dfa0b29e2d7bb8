// Package crd is the store.Backend over the Kubernetes API. It is a plain REST
// client: it caches nothing and watches nothing, because every decision that
// IPAM takes must rest on the current state, and it moves the objects' JSON
// without decoding it, so that one malformed object spoils no list.
package crd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
)

// pageSize is how many objects one list request asks for.
const pageSize = 500

// New returns a Store over the API server of config, which it copies. It lifts
// client-go's rate limit: the allocator has a dozen requests under way at most, and
// a limit of five a second would make 60 pods that start at once wait.
func New(config *rest.Config) (store.Store, error) {
	b, err := NewBackend(config)
	if err != nil {
		return store.Store{}, err
	}
	return store.New(b), nil
}

// NewBackend returns the Backend under New.
func NewBackend(config *rest.Config) (store.Backend, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, v1.SchemeGroupVersion)
	c := rest.CopyConfig(config)
	c.GroupVersion = &v1.SchemeGroupVersion
	c.APIPath = "/apis"
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.QPS, c.RateLimiter = -1, nil
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", v1.SchemeGroupVersion, err)
	}
	return backend{client}, nil
}

type backend struct{ client rest.Interface }

func (b backend) Get(ctx context.Context, resource, name string) ([]byte, error) {
	return result(b.client.Get().Resource(resource).Name(name).Do(ctx))
}

func (b backend) List(ctx context.Context, resource, selector string) ([]json.RawMessage, error) {
	items, err := b.list(ctx, resource, selector, pageSize)
	if apierrors.IsResourceExpired(err) { // the list changed too much between two pages
		items, err = b.list(ctx, resource, selector, 0)
	}
	return items, translate(err)
}

func (b backend) list(ctx context.Context, resource, selector string, limit int) ([]json.RawMessage, error) {
	var items []json.RawMessage
	next := ""
	for {
		request := b.client.Get().Resource(resource).Param("labelSelector", selector)
		if limit > 0 {
			request = request.Param("limit", fmt.Sprint(limit))
		}
		if next != "" {
			request = request.Param("continue", next)
		}
		text, err := raw(request.Do(ctx))
		if err != nil {
			return nil, err
		}
		var page struct {
			Metadata metav1.ListMeta   `json:"metadata"`
			Items    []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(text, &page); err != nil {
			return nil, fmt.Errorf("decode the list of %s: %w", resource, err)
		}
		if page.Items == nil {
			// What is not in a list of blocks or handles counts as absent: without a list
			// nothing is known.
			return nil, fmt.Errorf("the answer to the list of %s has no items: something that is no Kubernetes API server answered; "+
				"look at what is between it and this program", resource)
		}
		items = append(items, page.Items...)
		if next = page.Metadata.Continue; next == "" {
			return items, nil
		}
	}
}

func (b backend) Create(ctx context.Context, resource string, object []byte) ([]byte, error) {
	return result(b.client.Post().Resource(resource).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(object).Do(ctx))
}

func (b backend) Update(ctx context.Context, resource, name string, object []byte) ([]byte, error) {
	return result(b.client.Put().Resource(resource).Name(name).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(object).Do(ctx))
}

func (b backend) Delete(ctx context.Context, resource, name, uid, version string) error {
	id := types.UID(uid)
	options, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:      metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		Preconditions: &metav1.Preconditions{UID: &id, ResourceVersion: &version},
	})
	if err != nil {
		return err
	}
	_, err = result(b.client.Delete().Resource(resource).Name(name).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(options).Do(ctx))
	return err
}

func result(r rest.Result) ([]byte, error) {
	text, err := raw(r)
	return text, translate(err)
}

// raw returns the body, or the error that the server's Status describes.
func raw(r rest.Result) ([]byte, error) {
	if err := r.Error(); err != nil {
		return nil, err
	}
	return r.Raw()
}

// statusError keeps the server's words beside the sentinel that they stand for.
type statusError struct{ sentinel, cause error }

func (e statusError) Error() string   { return fmt.Sprintf("%v (%v)", e.sentinel, e.cause) }
func (e statusError) Unwrap() []error { return []error{e.sentinel, e.cause} }

// translate maps the server's answers to the store's errors. A name that is not
// served at all (the CRD is missing) is a failure, not an absent object.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsAlreadyExists(err):
		return statusError{store.ErrExists, err}
	case apierrors.IsConflict(err):
		return statusError{store.ErrConflict, err}
	case apierrors.IsNotFound(err) && apierrors.IsUnexpectedServerError(err):
		return fmt.Errorf("the API server does not serve %s; are the CRDs installed? %w", v1.SchemeGroupVersion, err)
	case apierrors.IsNotFound(err):
		return statusError{store.ErrNotFound, err}
	case utilnet.IsHTTP2ConnectionLost(err): // the connection was silent, not refused
		return fmt.Errorf("%w: %w", os.ErrDeadlineExceeded, err)
	}
	return err
}
