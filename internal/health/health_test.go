package health

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, h *Health, path string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(rec.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Code, string(body)
}

func expect(t *testing.T, h *Health, path string, status int, body string) {
	t.Helper()
	if s, b := get(t, h, path); s != status || b != body {
		t.Errorf("%s: got %d %q, want %d %q", path, s, b, status, body)
	}
}

func TestReadiness(t *testing.T) {
	h := New(nil)
	expect(t, h, "/readiness", 503, "agent: not ready: starting\n")
	var why error
	h.Ready("felix", func() error { return nil })
	h.Ready("bgp", func() error { return why })
	expect(t, h, "/readiness", 200, "bgp: ready\nfelix: ready\n")
	why = errors.New("sessions not Established: 10.0.0.2 (Active), 10.0.0.3 (Connect)")
	for _, path := range []string{"/readiness", "/readyz"} {
		expect(t, h, path, 503, "bgp: not ready: sessions not Established: 10.0.0.2 (Active), 10.0.0.3 (Connect)\nfelix: ready\n")
	}
	why = errors.Join(errors.New("a"), errors.New("b"))
	expect(t, h, "/readiness", 503, "bgp: not ready: a; b\nfelix: ready\n")
	expect(t, h, "/liveness", 200, "")
	why = errors.New("the pool is " + strings.Repeat("x", 200_000) + ": delete it")
	if _, body := get(t, h, "/readiness"); len(body) > 5<<10 || !strings.Contains(body, ": delete it\nfelix: ready") {
		t.Errorf("a body of %d bytes", len(body))
	}
}

func TestLiveness(t *testing.T) {
	var clock atomic.Int64
	h := New(func() time.Time { return time.Unix(clock.Load(), 0) })
	felix := h.Heart("felix", 30*time.Second)
	h.Heart("bgp", time.Minute)
	clock.Add(30)
	expect(t, h, "/liveness", 200, "bgp: live\nfelix: live\n")
	clock.Add(1)
	for _, path := range []string{"/liveness", "/livez"} {
		expect(t, h, path, 503, "bgp: live\nfelix: not live: no sign of life for 31s, want one every 30s\n")
	}
	felix.Beat()
	expect(t, h, "/liveness", 200, "bgp: live\nfelix: live\n")
}

func TestMethodsAndPaths(t *testing.T) {
	h := New(nil)
	rec := httptest.NewRecorder()
	h.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/liveness", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST answers %d", rec.Code)
	}
	if status, _ := get(t, h, "/"); status != http.StatusNotFound {
		t.Errorf("/ answers %d", status)
	}
}

// A reporter that hangs makes the agent not ready; it does not hang the probe,
// and however many probes come, one goroutine waits for it.
func TestHangingReporter(t *testing.T) {
	h := New(nil)
	free := make(chan struct{})
	var calls atomic.Int32
	h.Ready("bgp", func() error { return nil })
	h.Ready("felix", func() error { calls.Add(1); <-free; return nil })
	want := "bgp: ready\nfelix: not ready: does not answer\n"
	for range 3 {
		expect(t, h, "/readiness", 503, want)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("asked %d times while it hangs", n)
	}
	close(free)
	for deadline := time.Now().Add(30 * time.Second); ; {
		if status, _ := get(t, h, "/readiness"); status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never ready again")
		}
	}
}

func TestConcurrentProbes(t *testing.T) {
	h := New(nil)
	h.Ready("bgp", func() error { return nil })
	beat := h.Heart("felix", time.Minute)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				beat.Beat()
				if _, ok := h.Live(); !ok {
					t.Error("not live")
				}
				if lines, ok := h.Readiness(); !ok {
					t.Error(lines)
				}
			}
		})
	}
	wg.Wait()
}
