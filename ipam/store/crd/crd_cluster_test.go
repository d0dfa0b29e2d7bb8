//go:build cluster

package crd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/crd"
	"github.com/manx-cni/manx/ipam/store/storetest"
	"github.com/manx-cni/manx/test/lab/apiserver"
)

// TestAPIServer runs the conformance suite and what only a real API server shows.
func TestAPIServer(t *testing.T) {
	config := apiserver.Start(t)
	b, err := crd.NewBackend(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("conformance", func(t *testing.T) { storetest.Run(t, b) })
	t.Run("pages", func(t *testing.T) { pages(t, store.New(b)) })
	t.Run("schemas", func(t *testing.T) { schemas(t, b) })
	t.Run("unserved", func(t *testing.T) {
		_, err := b.Get(t.Context(), "ipamblocks.wrong", "x")
		if err == nil || errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "CRDs") {
			t.Errorf("a resource that is not served: %v, want a hint at the CRDs", err)
		}
	})
	t.Run("down", func(t *testing.T) {
		away := rest.CopyConfig(config)
		away.Host = "https://127.0.0.1:1"
		s, err := crd.New(away)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = s.Blocks.Get(ctx, "x")
		if err == nil || errors.Is(err, store.ErrNotFound) || ctx.Err() != nil {
			t.Errorf("no server: %v, want a failure at once", err)
		}
	})
}

// pages lists more objects than one page has.
func pages(t *testing.T, s store.Store) {
	const n = 620
	for i := range n {
		o := &v1.IPAMHandle{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%d", i), Labels: map[string]string{"suite": "pages"}},
			Spec:       v1.IPAMHandleSpec{HandleID: fmt.Sprintf("page-%d", i), Block: map[string]int{}},
		}
		if _, err := s.Handles.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	list, malformed, err := s.Handles.List(t.Context(), "suite=pages")
	if err != nil || len(malformed) > 0 {
		t.Fatal(err, malformed)
	}
	seen := map[string]bool{}
	for _, o := range list {
		seen[o.Name] = true
	}
	if len(list) != n || len(seen) != n {
		t.Errorf("listed %d objects, %d different, want %d", len(list), len(seen), n)
	}
}

// schemas shows what the generated CRDs accept and refuse at the door.
func schemas(t *testing.T, b store.Backend) {
	object := func(kind, name, spec string) []byte {
		return fmt.Appendf(nil, `{"apiVersion":"%s","kind":"%s","metadata":{"name":"%s"},"spec":%s}`, v1.SchemeGroupVersion, kind, name, spec)
	}
	for _, c := range []struct{ kind, resource, name, spec, refused string }{
		{"IPPool", "ippools", "ok", `{"cidr":"10.0.0.0/16","ipipMode":"Always","natOutgoing":true}`, ""},
		{"IPPool", "ippools", "six", `{"cidr":"fd00::/48","blockSize":122,"vxlanMode":"CrossSubnet"}`, ""},
		{"IPPool", "ippools", "both", `{"cidr":"10.1.0.0/16","ipipMode":"Always","vxlanMode":"Always"}`, "one encapsulation"},
		{"IPPool", "ippools", "bad", `{"cidr":"banana"}`, "spec.cidr"},
		{"IPPool", "ippools", "none", `{}`, "spec.cidr"},
		{"BGPConfiguration", "bgpconfigurations", "default",
			`{"asNumber":4200000000,"nodeToNodeMeshEnabled":true,"nodeMeshMaxRestartTime":"2m0s"}`, ""},
		{"BGPPeer", "bgppeers", "two", `{"node":"a","nodeSelector":"all()"}`, "exclude each other"},
		{"BGPPeer", "bgppeers", "tor",
			`{"peerIP":"10.0.0.1","asNumber":65001,"password":{"secretKeyRef":{"name":"s","key":"k"}},"filters":["f"]}`, ""},
		{"BGPFilter", "bgpfilters", "f",
			`{"exportV4":[{"cidr":"10.0.0.0/8","matchOperator":"In","action":"Accept","operations":[{"addCommunity":{"value":"1:2"}}]}]}`, ""},
		{"BGPFilter", "bgpfilters", "g", `{"exportV4":[{"cidr":"10.0.0.0/8","action":"Accept"}]}`, "go together"},
		{"BGPFilter", "bgpfilters", "h", `{"importV6":[{"action":"Reject","operations":[{"setPriority":{"value":5}}]}]}`, "action Accept"},
		{"FelixConfiguration", "felixconfigurations", "default", `{"ipipMTU":1480,"bpfLogLevel":"Off","someday":{"x":1}}`, ""},
		{"CalicoNodeStatus", "caliconodestatuses", "n", `{"node":"n1","classes":["BGP"],"updatePeriodSeconds":10}`, ""},
		{"ClusterInformation", "clusterinformations", "default", `{"clusterType":"k8s,bgp","datastoreReady":true}`, ""},
		{"IPReservation", "ipreservations", "r", `{"reservedCIDRs":["10.0.0.1","10.0.0.8/29"]}`, ""},
	} {
		_, err := b.Create(t.Context(), c.resource, object(c.kind, c.name, c.spec))
		if c.refused == "" && err != nil {
			t.Errorf("%s %s: %v, want it accepted", c.kind, c.name, err)
		}
		if c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s %s: %v, want it refused with %q", c.kind, c.name, err, c.refused)
		}
	}
	felix, err := b.Get(t.Context(), "felixconfigurations", "default")
	if err != nil || !strings.Contains(string(felix), `"someday":{"x":1}`) {
		t.Errorf("settings that Manx does not know are lost: %s %v", felix, err)
	}
	pool, err := b.Get(t.Context(), "ippools", "six")
	if err != nil {
		t.Fatal(err)
	}
	for change, refused := range map[string][2]string{
		"cidr":      {`"fd00::/48"`, `"fd01::/48"`},
		"blockSize": {`"blockSize":122`, `"blockSize":123`},
	} {
		changed := strings.Replace(string(pool), refused[0], refused[1], 1)
		if _, err := b.Update(t.Context(), "ippools", "six", []byte(changed)); err == nil || !strings.Contains(err.Error(), "cannot be changed") {
			t.Errorf("change of %s: %v, want it refused", change, err)
		}
	}
}
