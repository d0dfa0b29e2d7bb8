package crd_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/progress"
	"github.com/manx-cni/manx/ipam/store/crd"
)

// A server that takes requests and does not answer, and one that is not there: the
// first is slow, by the client's own limit, the second is not.
func TestSlowAndAbsentServer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // until then the server does not see a client leave
		<-r.Context().Done()
	}))
	block := &v1.IPAMBlock{}
	block.Name, block.ResourceVersion = "10-244-1-64-26", "7"
	write := func() error {
		t.Helper()
		s, err := crd.New(&rest.Config{Host: server.URL, Timeout: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Blocks.Update(t.Context(), block)
		return err
	}
	err := write()
	want := regexp.MustCompile(`^the API server has not answered the write of block 10\.244\.1\.64/26 for [1-9][0-9]* ms: `)
	if !progress.IsOverdue(err) || !want.MatchString(progress.Overdue(err).Error()) {
		t.Errorf("%v; want %q", err, want)
	}
	server.Close()
	if err := write(); err == nil || progress.IsOverdue(err) {
		t.Errorf("%v; want a refusal", err)
	}
}
