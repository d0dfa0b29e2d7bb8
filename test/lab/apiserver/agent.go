package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/manx-cni/manx/test/lab/kubebuild"
)

// agentNamespace and agentAccount are the agent's in the manifest.
const agentNamespace, agentAccount = "kube-system", "manx-node"

// Create creates the objects of files of the repository, such as
// manifests/src/20-rbac.yaml.
func Create(ctx context.Context, cfg *rest.Config, files ...string) error {
	repo, err := kubebuild.Repository()
	if err != nil {
		return fmt.Errorf("find %v: %w", files, err)
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("create %v: %w", files, err)
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("create %v: %w", files, err)
	}
	if err := awaitNamespace(ctx, kube); err != nil {
		return fmt.Errorf("create %v: %w", files, err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kube.Discovery()))
	for _, file := range files {
		if err := createAll(ctx, client, mapper, filepath.Join(repo, file)); err != nil {
			return fmt.Errorf("create the objects of %s: %w", file, err)
		}
	}
	return nil
}

func createAll(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for docs := utilyaml.NewYAMLOrJSONDecoder(f, 4096); ; {
		o := &unstructured.Unstructured{}
		if err := docs.Decode(o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if o.Object == nil {
			continue // comments alone
		}
		m, err := mapper.RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		if err != nil {
			return err
		}
		var to dynamic.ResourceInterface = client.Resource(m.Resource)
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			to = client.Resource(m.Resource).Namespace(o.GetNamespace())
		}
		if _, err := to.Create(ctx, o, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
}

// AgentOf makes a Node with a pod of Manx's agent on it, where they are missing, and
// returns the access that the agent has there: a token that is bound to the pod. The
// account is the manifest's; see Create.
func AgentOf(ctx context.Context, cfg *rest.Config, node string) (*rest.Config, error) {
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("agent of %s: %w", node, err)
	}
	_, err = kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("agent of %s: %w", node, err)
	}
	pods := kube.CoreV1().Pods(agentNamespace)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: agentAccount + "-" + node},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: agentAccount, Containers: []corev1.Container{{Name: "agent", Image: "none"}},
		},
	}
	_, err = pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("agent of %s: %w", node, err)
	}
	token, err := kube.CoreV1().ServiceAccounts(agentNamespace).CreateToken(ctx, agentAccount, &authv1.TokenRequest{
		Spec: authv1.TokenRequestSpec{BoundObjectRef: &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("token of the agent of %s: %w", node, err)
	}
	out := rest.AnonymousClientConfig(cfg)
	out.BearerToken, out.QPS, out.Burst = token.Status.Token, cfg.QPS, cfg.Burst
	return out, nil
}

// awaitNamespace waits for kube-system, which the API server makes by itself after it is
// ready.
func awaitNamespace(ctx context.Context, kube kubernetes.Interface) error {
	for {
		_, err := kube.CoreV1().Namespaces().Get(ctx, agentNamespace, metav1.GetOptions{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for namespace %s: %w: %w", agentNamespace, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
