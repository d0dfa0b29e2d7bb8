package crd_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/store/crd"
)

// An answer without items is no empty list: a node that took it for one would think
// that it has no block, and its pods no address.
func TestListWithoutItems(t *testing.T) {
	for answer, refused := range map[string]bool{
		`{}`:                                    true,
		`{"kind":"IPAMBlockList","items":null}`: true,
		`{"status":"ok"}`:                       true,
		`{"kind":"IPAMBlockList","items":[]}`:   false,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, answer)
		}))
		b, err := crd.NewBackend(&rest.Config{Host: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		items, err := b.List(t.Context(), v1.PluralIPAMBlocks, "")
		if (err != nil) != refused || err != nil && !strings.Contains(err.Error(), "has no items") || len(items) > 0 {
			t.Errorf("%s: %v, %v", answer, items, err)
		}
		server.Close()
	}
}
