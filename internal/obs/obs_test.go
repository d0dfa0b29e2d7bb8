package obs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	level := &slog.LevelVar{}
	level.Set(slog.LevelDebug - 4)
	l := NewLogger(&b, level)
	l.Log(t.Context(), slog.LevelDebug-4, "a")
	l.Debug("b")
	l.Warn("c", slog.Group("g", "level", "x"))
	l.Log(t.Context(), slog.LevelError+4, "d")
	level.Set(slog.LevelWarn)
	l.Info("not shown")
	var got []string
	for dec := json.NewDecoder(&b); dec.More(); {
		var line struct{ Msg, Level string }
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		got = append(got, line.Level+" "+line.Msg)
	}
	if want := "TRACE a,DEBUG b,WARN c,FATAL d"; strings.Join(got, ",") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestBridgeKlog(t *testing.T) {
	var b bytes.Buffer
	BridgeKlog(NewLogger(&b, slog.LevelInfo))
	t.Cleanup(klog.ClearLogger)
	klog.ErrorS(io.ErrUnexpectedEOF, "watch failed", "kind", "Node")
	if s := b.String(); !strings.Contains(s, `"component":"client-go"`) ||
		!strings.Contains(s, "watch failed") || !strings.Contains(s, `"level":"ERROR"`) {
		t.Errorf("got %s", s)
	}
}

func TestMetrics(t *testing.T) {
	reg := NewRegistry(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "manx_test_total", Help: "A test."}, func() float64 {
		return 7
	}))
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "manx_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}

	base := run(t, MetricsHandler(reg))
	status, body := get(t, base+"/metrics")
	for _, want := range []string{`manx_build_info{goversion="go1.`, "manx_test_total 7", "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(body, want) {
			t.Errorf("%d: no %q", status, want)
		}
	}
	if status, _ := get(t, base+"/"); status != http.StatusNotFound {
		t.Errorf("/ answers %d", status)
	}
}

func TestListenErrorNamesTheAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = Listen("health", ln.Addr().String(), http.NotFoundHandler())
	if err == nil || !strings.Contains(err.Error(), "serve health on "+ln.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

// A client that never finishes its request does not keep the server from ending.
func TestStopWithStuckClient(t *testing.T) {
	s, err := Listen("test", "127.0.0.1:0", http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(3 * stopTimeout):
		t.Error("still running")
	}
}

func run(t *testing.T, h http.Handler) string {
	t.Helper()
	s, err := Listen("test", "127.0.0.1:0", h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Whatever others have written into a message, a log line has a bound, and its end,
// which says what to do, stays.
func TestLogLinesAreBounded(t *testing.T) {
	var b bytes.Buffer
	long := strings.Repeat("x", 200_000)
	err := fmt.Errorf("annotation a=%q: want an address", long)
	NewLogger(&b, slog.LevelInfo).Warn("invalid object", "reason", err.Error(), "err", err, "text", long)
	if n := b.Len(); n > 3*5<<10 || strings.Count(b.String(), "want an address") != 2 || strings.Count(b.String(), "bytes left out") != 3 {
		t.Errorf("a line of %d bytes", n)
	}
}
