package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
	"github.com/manx-cni/manx/internal/testwait"
)

// agent answers status and nothing else.
type agent struct {
	nodeapi.Handler
	node func() status.Node
}

func (a agent) Status(context.Context) (json.RawMessage, error) { return json.Marshal(a.node()) }

// serve runs a node API server with that status and returns its socket.
func serve(t *testing.T, n status.Node) string {
	t.Helper()
	return serveStatus(t, func() status.Node { return n })
}

func serveStatus(t *testing.T, n func() status.Node) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "manx.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nodeapi.Serve(ctx, socket, agent{node: n}, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	testwait.Succeeds(t, 30*time.Second, "the agent answers", func() error {
		c, err := nodeapi.Dial(context.Background(), socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
	return socket
}

func run(args ...string) (string, error) {
	var out, errOut bytes.Buffer // what is waited for is told beside what is printed
	cmd := NewCommand(&out, &errOut)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(context.Background())
	return errOut.String() + out.String(), err
}

func TestStatusFromTheSocket(t *testing.T) {
	socket := serve(t, status.Node{
		Name: "node1", Ready: true, Mode: "BGP",
		Blocks: []status.Block{{CIDR: "10.244.0.64/26", State: "confirmed", Used: 3, Size: 64}},
	})
	text, err := run("status", "--socket", socket)
	if err != nil || !strings.Contains(text, "node1  ready") || !strings.Contains(text, "3/64") {
		t.Fatalf("text: %v\n%s", err, text)
	}
	raw, err := run("status", "--socket", socket, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var nodes []status.Node
	if err := json.Unmarshal([]byte(raw), &nodes); err != nil || len(nodes) != 1 || nodes[0].Blocks[0].Used != 3 {
		t.Fatalf("json: %v\n%s", err, raw)
	}
}

func TestStatusSaysWhatIsWrong(t *testing.T) {
	if _, err := run("status", "-o", "xml"); err == nil || !strings.Contains(err.Error(), `"xml": want text, json or yaml`) {
		t.Errorf("bad output format: %v", err)
	}
	absent := filepath.Join(t.TempDir(), "absent")
	if _, err := run("status", "--socket", absent, "--kubeconfig", absent); err == nil ||
		!strings.Contains(err.Error(), "no usable kubeconfig") {
		t.Errorf("neither agent nor kubeconfig: %v", err)
	}
}
