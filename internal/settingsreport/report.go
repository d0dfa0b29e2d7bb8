package settingsreport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/loop"
)

// Config is what a Reporter works with; all fields are required.
type Config struct {
	Kubernetes kubernetes.Interface
	Dynamic    dynamic.Interface
	Metadata   metadata.Interface
	// Locked reports that no object may be made for now; it must not block.
	Locked   func() bool
	Instance string // this process, in Events
	Log      *slog.Logger
}

// FromREST fills in clients of the API server, whose watches have no time limit.
func FromREST(cfg *rest.Config, c Config) (Config, error) {
	var errs [3]error
	c.Kubernetes, errs[0] = kubernetes.NewForConfig(cfg)
	c.Dynamic, errs[1] = dynamic.NewForConfig(cfg)
	c.Metadata, errs[2] = metadata.NewForConfig(cfg)
	if err := errors.Join(errs[:]...); err != nil {
		return c, fmt.Errorf("make a Kubernetes client: %w", err)
	}
	return c, nil
}

// lookEvery is how often everything is looked at without being told, and lookLeast the
// least time between two looks.
const (
	lookEvery = time.Minute
	lookLeast = time.Second
)

// requestTimeout bounds one request that is not a watch.
const requestTimeout = 30 * time.Second

// Reporter tells of settings without effect.
type Reporter struct {
	Config
	objects    map[string]cache.SharedIndexInformer // by kind
	policies   cache.SharedIndexInformer            // Kubernetes' own
	namespaces cache.SharedIndexInformer
	factories  []factory
	wake       func()
	least      time.Duration // between two looks

	told   map[string]string // what was said of each object; the loop's
	spoken map[string]bool   // the namespaces that have their Event; the loop's
}

type factory interface {
	Start(stop <-chan struct{})
	Shutdown()
}

// New prepares the informers; Run starts them.
func New(c Config) (*Reporter, error) {
	custom := dynamicinformer.NewDynamicSharedInformerFactory(c.Dynamic, 0)
	core := informers.NewSharedInformerFactoryWithOptions(c.Kubernetes, 0, informers.WithTransform(trimNamespace))
	meta := metadatainformer.NewSharedInformerFactory(c.Metadata, 0)
	r := &Reporter{
		Config: c, objects: map[string]cache.SharedIndexInformer{}, factories: []factory{custom, core, meta}, wake: func() {}, least: lookLeast,
		policies: meta.ForResource(policyKinds[0].resource).Informer(), namespaces: core.Core().V1().Namespaces().Informer(),
		told: map[string]string{}, spoken: map[string]bool{},
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { r.wake() }, UpdateFunc: func(_, _ any) { r.wake() }, DeleteFunc: func(any) { r.wake() },
	}
	for _, k := range settings.Kinds {
		if k.Record {
			continue
		}
		inf := custom.ForResource(apiv1.SchemeGroupVersion.WithResource(k.Plural)).Informer()
		if err := inf.SetTransform(trimObject(k)); err != nil {
			return nil, fmt.Errorf("set transform of %s informer: %w", k.Kind, err)
		}
		r.objects[k.Kind] = inf
	}
	if err := r.policies.SetTransform(trimPolicy); err != nil {
		return nil, fmt.Errorf("set transform of NetworkPolicy informer: %w", err)
	}
	for _, inf := range r.informers() {
		if _, err := inf.AddEventHandler(handler); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
	}
	return r, nil
}

func (r *Reporter) informers() (out []cache.SharedIndexInformer) {
	out = append(out, r.policies, r.namespaces)
	for _, inf := range r.objects {
		out = append(out, inf)
	}
	return out
}

// Run tells until ctx ends, and returns nil then.
func (r *Reporter) Run(ctx context.Context) error {
	failing := false
	runner, err := loop.New(loop.Config{
		Name: "settings", MinInterval: r.least, Period: lookEvery, BackoffMin: lookLeast, BackoffMax: lookEvery,
		Do: func(ctx context.Context) error {
			err := r.look(ctx)
			if ctx.Err() == nil && (err != nil) != failing {
				failing = err != nil
				r.Log.Info("telling of settings without effect", "failing", failing, "err", err)
			}
			return err
		},
	})
	if err != nil {
		return err
	}
	r.wake = runner.Wake
	for _, f := range r.factories {
		f.Start(ctx.Done())
		defer f.Shutdown()
	}
	for _, inf := range r.informers() {
		if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
			return nil // ctx ended first
		}
	}
	runner.WakeNow()
	return runner.Run(ctx)
}

// look says what is to be said now.
func (r *Reporter) look(ctx context.Context) error {
	return errors.Join(r.ensureDefaults(ctx), r.tellObjects(ctx), r.tellPolicies(ctx))
}

// object is what is kept of an object of our group.
type object struct {
	about    corev1.ObjectReference
	findings []settings.Finding
}

// trimObject keeps of an object what is to be said of it.
func trimObject(k settings.Kind) cache.TransformFunc {
	return func(o any) (any, error) {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return o, nil
		}
		return &kept[object]{ObjectMeta: identity(u), value: object{
			about:    corev1.ObjectReference{APIVersion: apiv1.SchemeGroupVersion.String(), Kind: k.Kind, Name: u.GetName(), UID: u.GetUID()},
			findings: k.Findings(u.Object),
		}}, nil
	}
}
