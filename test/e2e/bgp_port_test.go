//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/manx-cni/manx/felix/rules"
	"github.com/manx-cni/manx/test/lab/layout"
)

// TestBGPPort: the port of BGP answers the nodes that are peers, and resets strangers,
// pods, and pods that masquerading would make their node; without the mesh it resets other
// nodes as well. All of it is counted where users look.
func TestBGPPort(t *testing.T) {
	onLab(t)
	nodes := nodeNames(t)
	node, other := nodes[0], nodes[1]
	connect := []string{"bash", "-c", "exec 3<>/dev/tcp/" + nodeAddr(t, node) + "/179"}
	from := map[string]func(context.Context) (string, error){
		"a stranger":            func(ctx context.Context) (string, error) { return cluster.Exec(ctx, layout.Outside, connect...) },
		"a pod of the node":     func(ctx context.Context) (string, error) { return execIn(ctx, web(t, node), connect...) },
		"a pod of another node": func(ctx context.Context) (string, error) { return execIn(ctx, web(t, other), connect...) },
		"another node":          func(ctx context.Context) (string, error) { return cluster.Exec(ctx, other, connect...) },
		"the node itself":       func(ctx context.Context) (string, error) { return cluster.Exec(ctx, node, connect...) },
	}
	answers := func(who string) {
		t.Helper()
		if out, err := from[who](t.Context()); err != nil {
			t.Errorf("%s is not let in: %v %s", who, err, out)
		}
	}
	refused := func(who string) {
		t.Helper()
		if out, err := from[who](t.Context()); err == nil || !strings.Contains(out+err.Error(), "Connection refused") {
			t.Errorf("%s: %q, %v; want it refused", who, out, err)
		}
	}
	type count struct{ at, reason string }
	counts := map[count]uint64{
		{node, rules.DropBGPFromStranger}: 0, {node, rules.DropBGPFromPod}: 0, {other, rules.DropBGPFromHiddenPod}: 0,
	}
	for c := range counts {
		before, err := dropped(t.Context(), c.at, c.reason)
		if err != nil {
			t.Fatal(err)
		}
		counts[c] = before
	}
	answers("another node") // the control
	answers("the node itself")
	refused("a stranger")
	refused("a pod of the node")
	refused("a pod of another node")
	for c, before := range counts {
		eventually(t, fmt.Sprintf("%s counts %q", c.at, c.reason), func(ctx context.Context) error {
			after, err := dropped(ctx, c.at, c.reason)
			if err == nil && after != before+1 {
				err = fmt.Errorf("%d, want %d", after, before+1)
			}
			return err
		})
		line := fmt.Sprintf("manx_dropped_packets_total{reason=%q} %d\n", c.reason, before+1)
		if m := on(t, c.at, "curl", "-sS", "--fail", "--max-time", "3", "http://localhost:9091/metrics"); !strings.Contains(m, line) {
			t.Errorf("metrics of %s have no line %q", c.at, line)
		}
		if text := manxctl(t, c.at, "status"); !strings.Contains(text, c.reason) {
			t.Errorf("manxctl status on %s does not say %q:\n%s", c.at, c.reason, text)
		}
	}

	t.Run("without the mesh", func(t *testing.T) {
		withoutMesh(t)
		eventually(t, "another node is refused", func(ctx context.Context) error {
			if out, err := from["another node"](ctx); err == nil || !strings.Contains(out+err.Error(), "Connection refused") {
				return fmt.Errorf("%q, %v", out, err)
			}
			return nil
		})
		answers("the node itself")
	})
	eventually(t, "another node is let in again", func(ctx context.Context) error {
		_, err := from["another node"](ctx)
		return err
	})
}
