package datastore

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// NodeStatusRequest is a CalicoNodeStatus that asks this node for its state.
type NodeStatusRequest struct {
	Name    string
	UID     types.UID
	Classes []apiv1.NodeStatusClass
	Period  time.Duration // between two reports; 0: none is wanted
}

// Equal reports whether both ask for the same.
func (r NodeStatusRequest) Equal(o NodeStatusRequest) bool {
	return r.Name == o.Name && r.UID == o.UID && r.Period == o.Period && slices.Equal(r.Classes, o.Classes)
}

// DefaultNodeStatusPeriod is between two reports where a CalicoNodeStatus does not say.
const DefaultNodeStatusPeriod = 10 * time.Second

// NodeStatuses watches the CalicoNodeStatus objects that name a node, and no others: all
// nodes write into theirs, and a watch of everything would have each see what all write.
// The API server chooses by the field spec.node, which the CRD declares selectable. One
// that cannot (before Kubernetes 1.31, or with Calico's CRD) is asked again from time to time.
type NodeStatuses struct {
	client   dynamic.ResourceInterface
	selector string
	informer cache.SharedIndexInformer
	changed  chan struct{}
	log      *slog.Logger
}

// NewNodeStatuses prepares the watch for a node; Run starts it.
func NewNodeStatuses(client dynamic.Interface, node string, log *slog.Logger) (*NodeStatuses, error) {
	resource := apiv1.SchemeGroupVersion.WithResource(apiv1.PluralCalicoNodeStatuses)
	w := &NodeStatuses{
		client: client.Resource(resource), selector: fields.OneTermEqualSelector("spec.node", node).String(),
		changed: make(chan struct{}, 1), log: log,
	}
	w.informer = dynamicinformer.NewFilteredDynamicInformer(client, resource, metav1.NamespaceAll, 0, cache.Indexers{},
		func(o *metav1.ListOptions) { o.FieldSelector = w.selector }).Informer()
	if err := w.informer.SetTransform(trimNodeStatus); err != nil {
		return nil, err
	}
	_, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.wake() }, DeleteFunc: func(any) { w.wake() },
		UpdateFunc: func(old, cur any) {
			was, okWas := old.(*nodeStatusObject)
			is, okIs := cur.(*nodeStatusObject)
			if !okWas || !okIs || !was.request.Equal(is.request) { // our own reports change nothing of it
				w.wake()
			}
		},
	})
	return w, err
}

func (w *NodeStatuses) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Changed carries no data: what Current returns may differ from before.
func (w *NodeStatuses) Changed() <-chan struct{} { return w.changed }

// Current are the objects that name the node, by name.
func (w *NodeStatuses) Current() (out []NodeStatusRequest) {
	for _, o := range w.informer.GetStore().List() {
		if kept, ok := o.(*nodeStatusObject); ok {
			out = append(out, kept.request)
		}
	}
	slices.SortFunc(out, func(a, b NodeStatusRequest) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// askAgain is how long an API server that cannot choose by spec.node, or does not let the
// agent, is left in peace.
const askAgain = 10 * time.Minute

// Run watches until ctx ends. It returns nil then.
func (w *NodeStatuses) Run(ctx context.Context) error {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		_, err := w.client.List(ctx, metav1.ListOptions{FieldSelector: w.selector, Limit: 1})
		if err == nil {
			w.informer.RunWithContext(ctx)
			return nil
		}
		if apierrors.IsBadRequest(err) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			w.log.Info("CalicoNodeStatus objects are not filled: the API server cannot choose those of a node (it takes Kubernetes 1.31 "+
				"and Manx's CRD), or does not let the agent", "err", err, "again", askAgain)
			wait = askAgain
		}
		if !sleep(ctx, wait+rand.N(wait)) {
			return nil
		}
	}
}

// nodeStatusObject is a CalicoNodeStatus as the informer keeps it: not what was reported.
type nodeStatusObject struct {
	metav1.ObjectMeta
	request NodeStatusRequest
}

func trimNodeStatus(o any) (any, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	r := NodeStatusRequest{Name: u.GetName(), UID: u.GetUID(), Period: DefaultNodeStatusPeriod}
	// What does not fit the schema counts as absent; the CRD lets no such object through.
	if seconds, found, err := unstructured.NestedInt64(u.Object, "spec", "updatePeriodSeconds"); found && err == nil {
		r.Period = time.Duration(seconds) * time.Second
	}
	classes, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "classes")
	for _, c := range classes {
		r.Classes = append(r.Classes, apiv1.NodeStatusClass(c))
	}
	return &nodeStatusObject{ObjectMeta: identity(u), request: r}, nil
}
