package obs

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// The kubelet's probe of manifests/manx.yaml: a connection of its own, closed after the
// answer.
const probeTimeout = 10 * time.Second

// probes that fail one after the other end the container (failureThreshold).
const probes = 6

// crowdSize is how many connections stand around.
const crowdSize = 1000

// However many connections stand around, and come back when they are closed, each probe
// is answered in the time that the kubelet gives it.
func TestProbesInACrowd(t *testing.T) {
	for name, says := range map[string]string{
		"silent":         "",
		"half a request": "GET /liveness HTTP/1.1\r\nHost:",
		"keeping alive":  "GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			base := run(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "agent: live\n") }))
			stand(t, base[len("http://"):], says)
			client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
			for i := range probes {
				began := time.Now()
				resp, err := client.Get(base + "/liveness")
				if err != nil {
					t.Fatalf("probe %d, after %s: %v", i, time.Since(began), err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK || string(body) != "agent: live\n" {
					t.Fatalf("probe %d: %d %q, %v", i, resp.StatusCode, body, err)
				}
			}
		})
	}
}

// stand keeps crowdSize connections to addr open until the test ends; each says what it
// has to say, and one that is closed is made again. It returns when all have been made.
func stand(t *testing.T, addr, says string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all, made sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	made.Add(crowdSize)
	for range crowdSize {
		all.Go(func() {
			first := sync.OnceFunc(made.Done)
			defer first()
			for ctx.Err() == nil {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
				if err != nil {
					continue
				}
				first()
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				io.WriteString(conn, says)
				io.Copy(io.Discard, conn)
				stop()
				conn.Close()
			}
		})
	}
	made.Wait()
}

// A client that does not read its answer is not waited for longer than overdue, and one
// that is being answered is not closed for the next.
func TestBusyConnections(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := newCrowd(ln, 2)
	defer c.Close()
	now := time.Now()
	busy := &guest{Conn: noConn{}, of: c, since: now.Add(-overdue / 2), busy: true}
	fresh := &guest{Conn: noConn{}, of: c, since: now}
	c.conns[busy], c.conns[fresh] = true, true
	if g, wait := c.longest(now); g != fresh || wait != settle {
		t.Errorf("%v after %s, want the silent one after %s", g == fresh, wait, settle)
	}
	if g, wait := c.longest(now.Add(settle)); g != fresh || wait != 0 {
		t.Errorf("%v after %s, want the silent one now", g == fresh, wait)
	}
	fresh.mark(true)
	if g, wait := c.longest(now.Add(overdue / 2)); g != busy || wait != 0 {
		t.Errorf("%v after %s, want the one that does not read", g == busy, wait)
	}
}

type noConn struct{ net.Conn }

func (noConn) Close() error { return nil }
