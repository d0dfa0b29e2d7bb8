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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
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

// poolMode is what the manifest says of the pools' encapsulation, empty when nothing.
func (w workload) poolMode() string {
	for _, p := range w.everyNode {
		for _, c := range p.Spec.Containers {
			for _, e := range c.Env {
				if c.Name == agentContainer && e.Name == poolVariable {
					return e.Value
				}
			}
		}
	}
	return ""
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

// objectEvery is how often an object is tried that cannot be created yet, and how often
// the API server is asked whether it serves a new kind.
const objectEvery = 20 * time.Millisecond

// create creates the objects as administrator, the service accounts, without which no pod
// of the manifest starts, when all else is there. It begins when the API server accepts
// connections, which is a second before that is ready: what it has not made itself by
// then, such as a namespace, is waited for object by object.
func (c *Cluster) create(ctx context.Context, w workload) error {
	cfg, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	asker, err := c.Clientset()
	if err != nil {
		return err
	}
	first, gctx := errgroup.WithContext(ctx)
	for _, d := range w.definitions {
		first.Go(func() error {
			if err := createObject(gctx, client, d); err != nil {
				return err
			}
			return served(gctx, client, asker.RESTClient(), d)
		})
	}
	for _, o := range w.objects {
		if o.GetKind() != "ServiceAccount" {
			first.Go(func() error { return createObject(gctx, client, o) })
		}
	}
	if err := first.Wait(); err != nil {
		return err
	}
	last, lctx := errgroup.WithContext(ctx)
	for _, o := range w.objects {
		if o.GetKind() == "ServiceAccount" {
			last.Go(func() error { return createObject(lctx, client, o) })
		}
	}
	return last.Wait()
}

// createObject creates an object, as soon as the API server can.
func createObject(ctx context.Context, client dynamic.Interface, o *unstructured.Unstructured) error {
	resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	var refused error
	err := pollEvery(ctx, objectEvery, func(ctx context.Context) error {
		_, err := client.Resource(resource).Namespace(o.GetNamespace()).Create(ctx, o, metav1.CreateOptions{})
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsAlreadyExists(err) {
			refused = err
			return nil
		}
		return err
	})
	if err = errors.Join(refused, err); err != nil {
		return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// served waits until the API server serves what a CRD defines, and has it begin: its first
// answers to a new kind are "429, in a second", which every agent would wait for.
func served(ctx context.Context, client dynamic.Interface, asker rest.Interface, definition *unstructured.Unstructured) error {
	if err := established(ctx, client, definition); err != nil {
		return err
	}
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "plural")
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if version["served"] != true {
			continue
		}
		path := fmt.Sprintf("/apis/%s/%s/%s", group, version["name"], plural)
		// resourceVersion 0 is answered from the watch cache, which that needs first.
		err := pollEvery(ctx, objectEvery, func(ctx context.Context) error {
			return asker.Get().AbsPath(path).Param("resourceVersion", "0").MaxRetries(0).Do(ctx).Error()
		})
		if err != nil {
			return fmt.Errorf("ask for %s: %w", path, err)
		}
	}
	return nil
}

// established waits until a new kind is, and has that be an hour ago: within two seconds
// of it the API server lets whoever creates an object of the kind wait for two seconds
// (customresource_handler.go), for the sake of other API servers, which a lab has not.
func established(ctx context.Context, client dynamic.Interface, definition *unstructured.Unstructured) error {
	resource, _ := meta.UnsafeGuessKindToResource(definition.GroupVersionKind())
	return pollEvery(ctx, objectEvery, func(ctx context.Context) error {
		now, err := client.Resource(resource).Get(ctx, definition.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		conditions, _, _ := unstructured.NestedSlice(now.Object, "status", "conditions")
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
				c["lastTransitionTime"] = time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
				if err := unstructured.SetNestedSlice(now.Object, conditions, "status", "conditions"); err != nil {
					return err
				}
				_, err := client.Resource(resource).UpdateStatus(ctx, now, metav1.UpdateOptions{})
				return err
			}
		}
		return fmt.Errorf("%s is not established", definition.GetName())
	})
}
