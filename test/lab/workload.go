package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// workload is a manifest taken apart for a light lab: what is created in the API server,
// and the pods that its controllers would make of the rest.
type workload struct {
	definitions []*unstructured.Unstructured // CRDs, which come first
	objects     []*unstructured.Unstructured
	everyNode   []*corev1.Pod // of DaemonSets
	control     []*corev1.Pod // of Deployments, one each
}

// takeApart reads a manifest.
func takeApart(manifest []byte) (w workload, err error) {
	for i, doc := range strings.Split(string(manifest), separator) {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return w, fmt.Errorf("document %d of the manifest: %w", i+1, err)
		}
		switch o.GetKind() {
		case "": // comments only
		case "CustomResourceDefinition":
			w.definitions = append(w.definitions, o)
		case "DaemonSet":
			var ds appsv1.DaemonSet
			if err := yaml.UnmarshalStrict([]byte(doc), &ds); err != nil {
				return w, fmt.Errorf("DaemonSet %s of the manifest: %w", o.GetName(), err)
			}
			w.everyNode = append(w.everyNode, podOf(ds.ObjectMeta, ds.Spec.Template))
		case "Deployment":
			var d appsv1.Deployment
			if err := yaml.UnmarshalStrict([]byte(doc), &d); err != nil {
				return w, fmt.Errorf("Deployment %s of the manifest: %w", o.GetName(), err)
			}
			w.control = append(w.control, podOf(d.ObjectMeta, d.Spec.Template))
		default:
			w.objects = append(w.objects, o)
		}
	}
	if len(w.everyNode) == 0 {
		return w, errors.New("the manifest has no DaemonSet: there is nothing to run on the nodes")
	}
	return w, nil
}

func podOf(owner metav1.ObjectMeta, t corev1.PodTemplateSpec) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: owner.Name, Namespace: owner.Namespace, Labels: t.Labels, Annotations: t.Annotations},
		Spec:       t.Spec,
	}
}

// on names pods for a machine.
func on(machine string, pods []*corev1.Pod) (named []*corev1.Pod) {
	for _, p := range pods {
		p = p.DeepCopy()
		p.Name += "-" + machine
		named = append(named, p)
	}
	return named
}

// servedEvery is how often the API server is asked whether it serves new kinds.
const servedEvery = 20 * time.Millisecond

// create creates the objects as administrator, the CRDs first, and the service accounts,
// without which no pod of the manifest starts, when all else is there.
func (c *Cluster) create(ctx context.Context, w workload) error {
	cfg, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	each := func(objects []*unstructured.Unstructured, which func(*unstructured.Unstructured) bool) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, o := range objects {
			if which(o) {
				g.Go(func() error { return createObject(ctx, client, o) })
			}
		}
		return g.Wait()
	}
	all := func(*unstructured.Unstructured) bool { return true }
	account := func(o *unstructured.Unstructured) bool { return o.GetKind() == "ServiceAccount" }
	if err := each(w.definitions, all); err != nil {
		return err
	}
	if err := each(w.objects, func(o *unstructured.Unstructured) bool { return !account(o) }); err != nil {
		return err
	}
	for _, d := range w.definitions {
		if err := served(ctx, client, d); err != nil {
			return err
		}
	}
	return each(w.objects, account)
}

func createObject(ctx context.Context, client dynamic.Interface, o *unstructured.Unstructured) error {
	resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	_, err := client.Resource(resource).Namespace(o.GetNamespace()).Create(ctx, o, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// served waits until the API server serves what a CRD defines.
func served(ctx context.Context, client dynamic.Interface, definition *unstructured.Unstructured) error {
	resource, _ := meta.UnsafeGuessKindToResource(definition.GroupVersionKind())
	return pollEvery(ctx, servedEvery, func(ctx context.Context) error {
		now, err := client.Resource(resource).Get(ctx, definition.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(now.Object, "status", "conditions")
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("%s is not established", definition.GetName())
	})
}
