package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/manx-cni/manx/api/v1"
)

// Drained is what drain and undrain have done.
type Drained struct {
	Node    string `json:"node"`
	Drained bool   `json:"drained"`
	Since   string `json:"since,omitempty"` // RFC 3339; when it was drained, by now or before
}

func (d Drained) writeText(w io.Writer) error {
	text := fmt.Sprintf("node %s is in BGP again: sessions and routes are back in some seconds\n", d.Node)
	if d.Drained {
		text = fmt.Sprintf("node %s leaves BGP: GRACEFUL_SHUTDOWN and LOCAL_PREF 0 now, withdrawn 10 s later, sessions closed 5 s after that\n"+
			"(manxctl bgp peers --node %s; manxctl bgp undrain %s)\n", d.Node, d.Node, d.Node)
	}
	_, err := io.WriteString(w, text)
	return err
}

func newBGPDrainCommand(c *connection, drained bool) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Take a node out of BGP, without losing what has another way",
		Long: `Take a node out of BGP, before it is switched off: what it announces gets the community
GRACEFUL_SHUTDOWN (RFC 8326) and LOCAL_PREF 0 at once, so that peers take another way where
there is one, as for addresses of Services; 10 s later it is withdrawn, and 5 s after that
the sessions are closed with a Cease. Pods on the node cannot be reached from elsewhere
then: move them first ("kubectl drain"). "undrain" takes it back.

It sets the annotation manx.io/bgp-drain of the Node. Needs a kubeconfig with "get" and
"patch" on nodes.`,
		Args: cobra.ExactArgs(1),
	}
	if !drained {
		cmd.Use, cmd.Short = "undrain NODE", "Bring a drained node back into BGP"
		cmd.Long = `Bring a node that was drained back into BGP: it removes the annotation manx.io/bgp-drain
of the Node. Needs a kubeconfig with "get" and "patch" on nodes.`
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := c.userConfig()
		if err != nil {
			return fmt.Errorf("bgp %s: %w", cmd.Name(), err)
		}
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return err
		}
		done, err := setDrained(cmd.Context(), client, args[0], drained, time.Now())
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), done, done.writeText)
	}
	o.add(cmd.Flags())
	return c.uses(cmd)
}

// setDrained sets or removes the annotation. A node that is drained already stays so since then.
func setDrained(ctx context.Context, client kubernetes.Interface, node string, drained bool, now time.Time) (Drained, error) {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return Drained{}, fmt.Errorf("read node %s: %w", node, err)
	}
	before := n.Annotations[apiv1.AnnotationNodeBGPDrain]
	if drained == (before != "") {
		return Drained{Node: node, Drained: drained, Since: before}, nil
	}
	var value any // null removes it
	done := Drained{Node: node, Drained: drained}
	if drained {
		done.Since = now.UTC().Format(time.RFC3339)
		value = done.Since
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{apiv1.AnnotationNodeBGPDrain: value}}})
	if err != nil {
		return Drained{}, err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return Drained{}, fmt.Errorf("annotate node %s: %w", node, err)
	}
	return done, nil
}
