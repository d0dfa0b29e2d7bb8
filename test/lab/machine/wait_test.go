package machine

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// TestWaitURL: a component starts at the first 200, and all questions are asked through
// one connection.
func TestWaitURL(t *testing.T) {
	var asked, conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusForbidden) // an API server that has no roles yet
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(Component{WaitURL: srv.URL + "/readyz", WaitCA: ca})
	if asked.Load() != 3 || conns.Load() != 1 {
		t.Errorf("asked %d times through %d connections, want 3 through 1", asked.Load(), conns.Load())
	}
}

func TestWaitURLTrustsOnlyItsAuthority(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	empty := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ca := range []string{"/etc/ssl/certs/ca-certificates.crt", empty, "/does/not/exist"} {
		if err := saysOK(&http.Transport{}, srv.URL, ca); err == nil {
			t.Errorf("a server that %s does not vouch for is trusted", ca)
		}
	}
}
