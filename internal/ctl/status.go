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
	"k8s.io/client-go/rest"

	"github.com/manx-cni/manx/internal/cmdline"
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
	remote     bool // through the Kubernetes API, also where there is a socket
	problems   bool
	wait       bool
	timeout    time.Duration // of wait
	cluster    *rest.Config  // set when the agents were asked through it
}

func newStatusCommand(c *connection) *cobra.Command {
	o := &statusOptions{connection: c}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is wrong, then addresses, BGP sessions, blocks, mode and errors of this node, or of all nodes",
		Long: `Show one line for the cluster, how many nodes are ready and what is wrong, and then one
screen per node: addresses, BGP sessions with uptime and route counts, blocks with
addresses in use, mode, kernel capabilities and the last errors.

On a node it asks the agent's socket. Where there is no agent, and with --node,
--namespace or a flag that says how to reach the cluster, it asks every agent at the
same time, through the Kubernetes API (needs "list" on nodes, and "list" on pods and
"get" and "create" on pods/exec in the agents' namespace). Each has 10 s, or
--request-timeout. After the nodes it names what is set in the cluster without effect,
and the namespaces that have NetworkPolicies, which are not enforced (needs "list" on
these objects).
Nodes that do not answer, and those where an agent has run and none does, are named
after the others; the exit code is then 1.

--problems prints the line and what is wrong, in full, and nothing else. An error is a
node that is not ready or does not answer; everything else is a warning: a condition,
a BGP session that is down, what the kernel refuses. The exit code is 1 when there is
either.

--wait waits until every node answers and is ready (warnings do not hold it), says on
standard error what it waits for, and then prints as without it. When --timeout is over
it prints what there is, and the exit code is 1. Where it may read the agents' DaemonSet
it also waits for nodes whose agent has not been started yet. With --node it waits for
these nodes only.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("timeout") && !o.wait {
				return cmdline.Usagef("--timeout has no effect without --wait; --request-timeout is how long an agent may take to answer")
			}
			if o.timeout <= 0 {
				return cmdline.Usagef("--timeout=%v: want a time such as 2m", o.timeout)
			}
			o.remote = len(o.nodes) > 0 || len(c.given()) > 0 || cmd.Flags().Changed("namespace")
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	o.output.add(f)
	f.StringVar(&o.socket, "socket", defaultSocket, "the agent's unix socket, unless it asks through the Kubernetes API")
	namespaceFlag(f, &o.namespace)
	f.StringSliceVar(&o.nodes, "node", nil, "only these nodes, through the Kubernetes API")
	f.BoolVar(&o.problems, "problems", false, "print only what is wrong; the exit code is 1 when something is")
	f.BoolVar(&o.wait, "wait", false, "wait until every node is ready")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long --wait waits")
	return c.uses(cmd)
}

func (o *statusOptions) run(ctx context.Context, out io.Writer) error {
	look, err := o.looker()
	if err != nil {
		return err
	}
	var p picture
	if o.wait {
		p, err = awaitReady(ctx, o.timeout, look)
	} else {
		p, err = look(ctx)
	}
	if err != nil && len(p.nodes)+len(p.silent) == 0 {
		return err
	}
	if o.problems {
		return errors.Join(err, o.printProblems(out, p.summary()))
	}
	if err == nil { // else what it waited for has named them
		err = p.err()
	}
	if o.cluster == nil || o.output.format != asText {
		return errors.Join(err, o.print(out, p))
	}
	settings := readSettings(ctx, o.cluster, p.nodes)
	return errors.Join(err, o.print(out, p), settings.write(out))
}

// looker asks the local agent when there is one and nothing says otherwise, else all
// agents.
func (o *statusOptions) looker() (look, error) {
	if _, err := os.Stat(o.socket); err == nil && !o.remote {
		return func(ctx context.Context) (picture, error) {
			n, err := localStatus(ctx, o.socket)
			if err != nil {
				return picture{}, err
			}
			return picture{nodes: []status.Node{n}}, nil
		}, nil
	}
	cfg, err := o.connection.config()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	o.cluster = cfg
	a := agents{client: client, exec: execIn(cfg, client), namespace: o.namespace, timeout: o.connection.requestTimeout(statusTimeout)}
	return func(ctx context.Context) (picture, error) {
		p, err := a.status(ctx, o.nodes)
		if err == nil && o.wait && len(o.nodes) == 0 {
			err = a.missing(ctx, len(p.nodes)+len(p.silent))
		}
		return p, err
	}, nil
}

// printProblems fails when there are some.
func (o *statusOptions) printProblems(out io.Writer, s status.Summary) error {
	err := o.output.print(out, s, s.WriteProblems)
	switch n := len(s.Problems); n {
	case 0:
		return err
	case 1:
		return errors.Join(err, errors.New("1 problem"))
	default:
		return errors.Join(err, fmt.Errorf("%d problems", n))
	}
}

func (o *statusOptions) print(out io.Writer, p picture) error {
	nodes := append([]status.Node{}, p.nodes...) // none is [] and not null
	return o.output.print(out, nodes, func(out io.Writer) error {
		if _, err := fmt.Fprintln(out, p.summary().Line); err != nil {
			return err
		}
		for _, n := range p.nodes {
			fmt.Fprintln(out)
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
