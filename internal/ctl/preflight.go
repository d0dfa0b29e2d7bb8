package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/preflight"
)

// execFunc runs manxctl with args in an agent's pod and returns what it printed.
type execFunc func(ctx context.Context, pod *corev1.Pod, args ...string) ([]byte, error)

type preflightOptions struct {
	kind       preflight.Kind
	output     string
	kubeconfig string
	namespace  string
	wait       time.Duration
	port       uint16
}

// startTime is what starting a program in a pod may take beside its own work: on a busy
// node the runtime alone needs seconds.
const startTime = 30 * time.Second

func newPreflightCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "preflight",
		Short: "Try what the fabric between the nodes carries, with real packets between every pair",
		Args:  cobra.NoArgs,
	}
	const how = `

Every agent of the cluster takes part at the same time, in its own pod, started
through the Kubernetes API (needs a kubeconfig with "list" on nodes and on pods, and
"create" on pods/exec, in the agents' namespace). Nothing is changed anywhere.

Failing pairs are printed first, each with what to do about it, then a matrix of all
nodes. The exit code is 1 when a pair fails or a node does not report.`
	ipip := newPreflightKind(preflight.KindIPIP, "Try whether IP protocol 4 (IPIP) passes", `Try whether IP protocol 4 (IPIP) passes from every node to every other: small
packets, and packets as large as the sender's MTU that may not be fragmented. The
ipip module is not needed: it works before a pool is changed to IPIP.`+how)
	bgp := newPreflightKind(preflight.KindBGP, "Try whether BGP and full-size packets pass", `Try whether every node reaches every other's BGP port, and whether packets as large
as the sender's MTU pass that may not be fragmented. Established BGP sessions do not
notice; one that is being opened may take some seconds longer.`+how)
	cmd.AddCommand(ipip, bgp, newPreflightNodeCommand())
	return cmd
}

func newPreflightKind(kind preflight.Kind, short, long string) *cobra.Command {
	o := &preflightOptions{kind: kind}
	cmd := &cobra.Command{
		Use:   string(kind),
		Short: short,
		Long:  long,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "text", "how to print: text or json (the matrix)")
	f.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "kubeconfig of the cluster")
	f.StringVarP(&o.namespace, "namespace", "n", "kube-system", "namespace of the agents")
	f.DurationVar(&o.wait, "wait", preflight.DefaultWait, "how long packets that were not answered are sent again")
	if kind == preflight.KindBGP {
		f.Uint16Var(&o.port, "port", preflight.DefaultPort, "TCP port of the BGP speakers")
	}
	return cmd
}

func (o *preflightOptions) run(ctx context.Context, out io.Writer) error {
	if err := o.validate(); err != nil {
		return err
	}
	cfg, err := userKubeconfig(o.kubeconfig)
	if err != nil {
		return fmt.Errorf("preflight %s: %w", o.kind, err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	return o.runWith(ctx, out, client, func(ctx context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
		return execInPod(ctx, cfg, client, pod, args...)
	})
}

func (o *preflightOptions) validate() error {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("--output=%q: want text or json", o.output)
	}
	if o.wait <= 0 {
		return fmt.Errorf("--wait=%v: want a time such as 10s", o.wait)
	}
	return nil
}

// runWith starts the preflight in every agent's pod and prints what comes of it.
func (o *preflightOptions) runWith(ctx context.Context, out io.Writer, client kubernetes.Interface, exec execFunc) error {
	members, err := preflightMembers(ctx, client, o.namespace)
	if err != nil {
		return fmt.Errorf("preflight %s: %w", o.kind, err)
	}
	reports := make([]preflight.Report, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { reports[i] = o.ask(ctx, m, members, exec) })
	}
	wg.Wait()
	matrix := preflight.Merge(o.kind, reports)
	if o.output == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(matrix)
	} else {
		err = matrix.WriteText(out)
	}
	return errors.Join(err, matrix.Err())
}

// member is a node that should take part.
type member struct {
	preflight.Target
	pod *corev1.Pod
	// problem says why it can not.
	problem string
}

// preflightMembers finds the nodes that have an agent or an address of one.
func preflightMembers(ctx context.Context, client kubernetes.Interface, namespace string) ([]member, error) {
	pods, err := agentPods(ctx, client, namespace)
	if err != nil {
		return nil, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	byNode := agentsByNode(pods)
	var members []member
	for _, n := range nodes.Items {
		m := member{Target: preflight.Target{Name: n.Name}, pod: byNode[n.Name]}
		text := n.Annotations[apiv1.AnnotationNodeIPv4]
		if m.pod == nil && text == "" {
			continue // no node of ours
		}
		addr, ok := nodeAddress(text)
		if ok {
			m.Addr = addr
		}
		switch {
		case m.pod == nil:
			m.problem = "no agent runs there"
		case !running(m.pod):
			m.problem = fmt.Sprintf("its agent (pod %s) is not running: %s", m.pod.Name, phase(m.pod))
		case !ok:
			m.problem = fmt.Sprintf("its annotation %s=%q is no IPv4 address: look at the agent's log (kubectl -n %s logs %s)", apiv1.AnnotationNodeIPv4, text, namespace, m.pod.Name)
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.Name, b.Name) })
	return members, nil
}

func running(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil
}

func phase(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "Terminating"
	}
	return string(p.Status.Phase)
}

// nodeAddress reads 10.0.0.5/24, or the bare address of old Calico versions.
func nodeAddress(text string) (netip.Addr, bool) {
	text, _, _ = strings.Cut(text, "/")
	addr, err := netip.ParseAddr(text)
	return addr, err == nil && addr.Is4()
}

// ask runs one member's part.
func (o *preflightOptions) ask(ctx context.Context, self member, members []member, exec execFunc) preflight.Report {
	failed := func(why string) preflight.Report {
		return preflight.Report{Node: self.Target, Kind: o.kind, Error: why}
	}
	if self.problem != "" {
		return failed(self.problem)
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait+startTime)
	defer cancel()
	args := []string{"preflight", "node", string(o.kind), "--wait", o.wait.String(), "--self", nameAddr(self.Target)}
	if o.kind == preflight.KindBGP {
		args = append(args, "--port", fmt.Sprint(o.port))
	}
	for _, m := range members {
		if m.Name != self.Name && m.Addr.IsValid() {
			args = append(args, "--target", nameAddr(m.Target))
		}
	}
	raw, err := exec(ctx, self.pod, args...)
	if err != nil {
		return failed(fmt.Sprintf("manxctl in pod %s: %v", self.pod.Name, err))
	}
	var r preflight.Report
	if err := json.Unmarshal(raw, &r); err != nil || r.Node != self.Target || r.Kind != o.kind {
		return failed(fmt.Sprintf("unexpected answer of manxctl in pod %s: %.80q", self.pod.Name, raw))
	}
	return r
}
