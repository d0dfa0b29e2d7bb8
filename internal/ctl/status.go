package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/internal/status"
)

// defaultSocket is where the agent listens on every node.
const defaultSocket = "/var/run/manx/manx.sock"

type statusOptions struct {
	socket     string
	output     output
	connection *connection
	namespace  string
	nodes      []string
}

func newStatusCommand(c *connection) *cobra.Command {
	o := &statusOptions{connection: c}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show addresses, BGP sessions, blocks, mode and errors of this node, or of all nodes",
		Long: `Show one screen per node: addresses, BGP sessions with uptime and route counts,
blocks with addresses in use, mode, kernel capabilities and the last errors.

On a node it asks the agent's socket. Where there is no agent, and with --node or a flag
that says how to reach the cluster, it asks every agent at the same time, through the Kubernetes API (needs "list" on nodes,
and "list" on pods and "get" and "create" on pods/exec in the agents' namespace).
Nodes that do not answer, and those where an agent has run and none does, are named
after the others; the exit code is then 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	o.output.add(f)
	f.StringVar(&o.socket, "socket", defaultSocket, "the agent's unix socket")
	namespaceFlag(f, &o.namespace)
	f.StringSliceVar(&o.nodes, "node", nil, "only these nodes, through the Kubernetes API")
	return c.uses(cmd)
}

func (o *statusOptions) run(ctx context.Context, out io.Writer) error {
	nodes, err := o.collect(ctx)
	if len(nodes) > 0 {
		err = errors.Join(err, o.print(out, nodes))
	}
	return err
}

// collect asks the local agent when there is one and neither a node nor a cluster is
// named, otherwise all agents.
func (o *statusOptions) collect(ctx context.Context) ([]status.Node, error) {
	if _, err := os.Stat(o.socket); err == nil && len(o.nodes) == 0 && len(o.connection.given()) == 0 {
		n, err := localStatus(ctx, o.socket)
		if err != nil {
			return nil, err
		}
		return []status.Node{n}, nil
	}
	cfg, err := o.connection.config()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return clusterStatus(ctx, client, execIn(cfg, client), o.namespace, o.nodes)
}

func (o *statusOptions) print(out io.Writer, nodes []status.Node) error {
	return o.output.print(out, nodes, func(out io.Writer) error {
		for i, n := range nodes {
			if i > 0 {
				fmt.Fprintln(out)
			}
			if err := n.WriteText(out, time.Now()); err != nil {
				return err
			}
		}
		return nil
	})
}

// localStatus asks the agent on this machine.
func localStatus(ctx context.Context, socket string) (status.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var n status.Node
	c, err := nodeapi.Dial(ctx, socket)
	if err != nil {
		return n, fmt.Errorf("ask the agent at %s: %w; is the manx-node pod of this node running, and are you root?", socket, err)
	}
	defer c.Close()
	raw, err := c.Status(ctx)
	if err != nil {
		return n, fmt.Errorf("ask the agent at %s for its status: %w", socket, err)
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return n, fmt.Errorf("read the agent's status: %w", err)
	}
	return n, nil
}
