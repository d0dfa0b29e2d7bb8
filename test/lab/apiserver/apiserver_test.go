//go:build cluster

package apiserver_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/test/lab/apiserver"
)

func TestStart(t *testing.T) {
	cfg := apiserver.Start(t)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
	if err != nil {
		t.Fatalf("default namespace: %v", err)
	}
	t.Logf("namespace %s since %s", ns.Name, ns.CreationTimestamp)
	resources, err := client.Discovery().ServerResourcesForGroupVersion("crd.projectcalico.org/v1")
	if err != nil {
		t.Fatalf("the CRDs are not served: %v", err)
	}
	served := map[string]bool{}
	for _, r := range resources.APIResources {
		served[r.Name] = true
	}
	for _, want := range []string{"ippools", "ipamblocks", "blockaffinities", "ipamhandles", "bgppeers"} {
		if !served[want] {
			t.Errorf("%s is not served", want)
		}
	}
}
