//go:build cluster

package apiserver_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// TestRestart: what was written survives a crash of the API server and of etcd, and
// a restored copy knows of nothing that came after it.
func TestRestart(t *testing.T) {
	s := apiserver.Run(t)
	client, err := kubernetes.NewForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string) {
		t.Helper()
		o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := client.CoreV1().Namespaces().Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(name string) bool {
		_, err := client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		return err == nil
	}
	create("before")
	copied := filepath.Join(t.TempDir(), "etcd")
	if err := s.SaveEtcd(copied); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !exists("before") { // the API server finds etcd again by itself
		select {
		case <-ctx.Done():
			t.Fatal("the API server does not find etcd again")
		case <-time.After(50 * time.Millisecond):
		}
	}
	create("after")
	s.StopAPIServer()
	if exists("before") {
		t.Error("the API server answers although it was stopped")
	}
	if err := s.StartAPIServer(); err != nil {
		t.Fatal(err)
	}
	if !exists("before") || !exists("after") {
		t.Error("a namespace is lost after the API server started again")
	}
	if err := s.RestoreEtcd(copied); err != nil {
		t.Fatal(err)
	}
	if !exists("before") || exists("after") {
		t.Errorf("in the copy: before %v, after %v; want only the first", exists("before"), exists("after"))
	}
}
