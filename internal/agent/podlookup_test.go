package agent

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	kubefake "k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// memory is a podCache.
type memory struct {
	pod       *datastore.PodMeta
	namespace bool
}

func (m memory) Pod(_, _, uid string) (datastore.PodMeta, bool) {
	if m.pod == nil || !m.pod.Is(uid) {
		return datastore.PodMeta{}, false
	}
	return *m.pod, true
}

func (m memory) Namespace(string) (labels, annotations map[string]string, ok bool) {
	if !m.namespace {
		return nil, nil, false
	}
	return map[string]string{"known": "memory"}, map[string]string{annotationPools4: `["memory"]`}, true
}

func TestLookup(t *testing.T) {
	away := errors.New("connection refused")
	cached := &datastore.PodMeta{UID: "u1", Annotations: map[string]string{annotationAddrs: "memory"}}
	stored := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "web", UID: "u2", Annotations: map[string]string{annotationAddrs: "API", "other": "x"},
	}}
	mirror := stored.DeepCopy()
	mirror.Annotations[corev1.MirrorPodAnnotationKey] = "static"
	for name, tt := range map[string]struct {
		cache  memory
		uid    string
		stored *corev1.Pod
		fail   error
		pod    string // the annotation
		ns     string // the label
		asked  int
		err    string
	}{
		"cached":                       {cache: memory{cached, true}, uid: "u1", fail: away, pod: "memory", ns: "memory"},
		"cached, UID not told":         {cache: memory{cached, true}, fail: away, pod: "memory", ns: "memory"},
		"faster than the watch":        {cache: memory{nil, true}, uid: "u2", stored: stored, pod: "API", ns: "memory", asked: 1},
		"replaced, faster":             {cache: memory{cached, true}, uid: "u2", stored: stored, pod: "API", ns: "memory", asked: 1},
		"a static pod":                 {cache: memory{nil, true}, uid: "static", stored: mirror, pod: "API", ns: "memory", asked: 1},
		"a new namespace":              {cache: memory{nil, false}, uid: "u2", stored: stored, pod: "API", ns: "API", asked: 2},
		"a cached pod's new namespace": {cache: memory{cached, false}, uid: "u1", pod: "memory", ns: "API", asked: 1},
		"unknown to everybody":         {cache: memory{nil, false}, uid: "u1", asked: 1},
		"a container of no pod":        {cache: memory{nil, true}, ns: "memory", asked: 1},
		"replaced by another": {cache: memory{cached, true}, uid: "u3", stored: stored,
			asked: 1, err: "pod default/web has the UID u2 now, want u3: it was replaced"},
		"API server away": {cache: memory{nil, true}, uid: "u1", fail: away, asked: 1,
			err: "read pod default/web, for its annotations, from the Kubernetes API: connection refused"},
		"away for the namespace": {cache: memory{cached, false}, uid: "u1", fail: away, asked: 1,
			err: "read namespace default, for its annotations, from the Kubernetes API: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			kube, meta := kubefake.NewClientset(), metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())
			if tt.stored != nil {
				if err := kube.Tracker().Add(tt.stored); err != nil {
					t.Fatal(err)
				}
			}
			namespace := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
				Name: "default", Labels: map[string]string{"known": "API"}, Annotations: map[string]string{annotationPools4: `["API"]`}}}
			if err := meta.Tracker().Create(corev1.SchemeGroupVersion.WithResource("namespaces"), namespace, ""); err != nil {
				t.Fatal(err)
			}
			refuse := func(clienttesting.Action) (bool, runtime.Object, error) { return tt.fail != nil, nil, tt.fail }
			kube.PrependReactor("*", "*", refuse)
			meta.PrependReactor("*", "*", refuse)

			l := podLookup{cache: tt.cache, kube: kube, metadata: meta, timeout: time.Minute}
			e := testEndpoint
			e.PodUID = tt.uid
			got, err := l.find(t.Context(), e)
			if (tt.err == "") != (err == nil) || err != nil && err.Error() != tt.err {
				t.Fatalf("%v; want %q", err, tt.err)
			}
			var asked []string
			for _, a := range append(kube.Actions(), meta.Actions()...) {
				asked = append(asked, a.GetVerb()+" "+a.GetResource().Resource)
				if a.GetVerb() != "get" {
					t.Errorf("the API server was asked to %s", a.GetVerb())
				}
			}
			if len(asked) != tt.asked {
				t.Errorf("the API server was asked %v; want %d requests", asked, tt.asked)
			}
			want := podMeta{}
			if tt.pod != "" {
				want.annotations = map[string]string{annotationAddrs: tt.pod}
			}
			if tt.ns != "" {
				want.namespaceLabels, want.namespace = map[string]string{"known": tt.ns}, map[string]string{annotationPools4: `["` + tt.ns + `"]`}
			}
			if got.annotations[annotationAddrs] != want.annotations[annotationAddrs] ||
				!maps.Equal(got.namespaceLabels, want.namespaceLabels) || !maps.Equal(got.namespace, want.namespace) {
				t.Errorf("%+v; want %+v", got, want)
			}
		})
	}
}

// An API server that hangs is given up, and the kubelet told to try again.
func TestLookupIsBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	l := podLookup{cache: memory{nil, true}, kube: kube, timeout: 10 * time.Millisecond}
	_, err = l.find(t.Context(), testEndpoint)
	if err == nil || nodeapi.AsError(retryable(err)).Code != nodeapi.CodeTryAgain || !strings.Contains(err.Error(), "pod default/web") {
		t.Errorf("%v; want code 11 and the pod's name", err)
	}
}
