package lab

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/machine"
)

// Status is a lab as it is right now.
type Status struct {
	Name, Kubernetes string
	Created          time.Time
	// Subnets is how many the fabric has; a machine's address says which is its own.
	Subnets int
	// DualStack: machines have IPv6 too.
	DualStack bool
	// Light: the nodes are light ones.
	Light bool
	// Complete is false for a lab whose start failed or still goes on.
	Complete bool
	// APIError says why the API server could not be asked; empty when it answered.
	APIError string
	Machines []MachineStatus
}

// MachineStatus is one machine.
type MachineStatus struct {
	Machine
	On bool
	// Running and Down are the machine's components.
	Running, Down []string
	// Condition is "Ready", "NotReady" or "unregistered" for a node, empty for the control plane.
	Condition string
	// Agent is, in a light lab, "ready" or what the manifest's pods of the machine lack;
	// Pods is how many others run there.
	Agent string
	Pods  int
}

// agentReady is MachineStatus.Agent of a machine that lacks nothing.
const agentReady = "ready"

// Status looks at the lab's machines, their processes, and the cluster's nodes.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	st, err := loadState(c.Lab)
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Name: c.Name, Kubernetes: st.Kubernetes, Created: st.Created, Subnets: st.Subnets,
		DualStack: st.DualStack, Light: st.Light, Complete: st.Complete,
	}
	conditions, err := c.nodeConditions(ctx)
	if err != nil {
		s.APIError = err.Error()
	}
	var pods []corev1.Pod
	if s.Light && s.APIError == "" {
		if pods, err = c.pods(ctx); err != nil {
			s.APIError = err.Error()
		}
	}
	for _, m := range st.Machines {
		ms := MachineStatus{Machine: m, On: m.Init.Alive()}
		spec, err := machine.Load(c.Machine(m.Name))
		if err != nil {
			return Status{}, err
		}
		running, err := c.runningPrograms(ctx, ms)
		if err != nil {
			return Status{}, err
		}
		for _, comp := range spec.Components {
			if slices.Contains(running, comp.Args[0]) {
				ms.Running = append(ms.Running, comp.Name)
			} else {
				ms.Down = append(ms.Down, comp.Name)
			}
		}
		if s.Light && s.APIError == "" && ms.On && m.Daemon == "" {
			ms.Agent = agentReady
			if err := staticReady(pods, m.Name); err != nil {
				ms.Agent = err.Error()
			}
			for _, p := range pods {
				if p.Spec.NodeName == m.Name && !isMirror(p) && p.Status.Phase == corev1.PodRunning {
					ms.Pods++
				}
			}
		}
		if s.Light && ms.On { // also when the API server does not answer: that may be why
			if p := c.stopped(ctx, m.Name); len(p) > 0 {
				ms.Agent = strings.TrimSuffix(strings.Join(p, "; ")+"; "+ms.Agent, "; ")
			}
		}
		if m.isNode() && s.APIError == "" {
			ms.Condition = "unregistered"
			if cond, ok := conditions[m.Name]; ok {
				ms.Condition = cond
			}
		}
		s.Machines = append(s.Machines, ms)
	}
	return s, nil
}

// runningPrograms lists the names of the processes that a machine's PID 1 started.
func (c *Cluster) runningPrograms(ctx context.Context, m MachineStatus) ([]string, error) {
	if !m.On {
		return nil, nil
	}
	out, err := c.Exec(ctx, m.Name, "ps", "--ppid", "1", "-o", "args=")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, strings.TrimSuffix(f[0], ":")) // OpenBGPD's says what it does
		}
	}
	return names, nil
}

func (c *Cluster) nodeConditions(ctx context.Context) (map[string]string, error) {
	client, err := c.Clientset()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the API server: %w", err)
	}
	conds := map[string]string{}
	for _, n := range list.Items {
		conds[n.Name] = "NotReady"
		if ready(&n) == nil {
			conds[n.Name] = string(corev1.NodeReady)
		}
	}
	return conds, nil
}

func (c *Cluster) pods(ctx context.Context) ([]corev1.Pod, error) {
	client, err := c.Clientset()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask the API server: %w", err)
	}
	return list.Items, nil
}

// Print writes the status for people.
func (s Status) Print(w io.Writer) error {
	fmt.Fprintf(w, "lab %s, Kubernetes %s, up since %s\n", s.Name, s.Kubernetes, s.Created.Local().Format(time.DateTime))
	if !s.Complete {
		fmt.Fprintln(w, "its start has not come to an end; \"lab up\" makes it again, \"lab down\" removes it")
	}
	if s.Light {
		fmt.Fprintln(w, "light: the lab's runner is in the place of kubelet, containerd and scheduler")
	}
	if s.Subnets > 1 {
		fmt.Fprintf(w, "%d subnets, %s and %s, with a router between\n", s.Subnets, fabric.Subnet(1), fabric.Subnet(2))
	}
	if s.DualStack {
		fmt.Fprintf(w, "dual stack: pods in %s, cluster IPs in %s\n", controlplane.PodCIDRs(true), controlplane.ServiceCIDRs(true))
	}
	if s.APIError != "" {
		fmt.Fprintf(w, "API server: %s\n", s.APIError)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "MACHINE\tADDRESS\tPOWER\tNODE\tRUNNING\tDOWN"
	if s.Light {
		head += "\tPODS\tMANX"
	}
	fmt.Fprintln(t, head)
	for _, m := range s.Machines {
		power, addr := "off", m.Addr.String()
		if s.DualStack {
			addr += "," + fabric.Addr6(m.Addr).String()
		}
		if m.On {
			power = fmt.Sprintf("on (pid %d)", m.Init.PID)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s", m.Name, addr, power, dash(m.Condition),
			dash(strings.Join(m.Running, " ")), dash(strings.Join(m.Down, " ")))
		if s.Light {
			agent := m.Agent
			if agent != "" && agent != agentReady {
				agent = "not ready"
			}
			fmt.Fprintf(t, "\t%d\t%s", m.Pods, dash(agent))
		}
		fmt.Fprintln(t)
	}
	err := t.Flush()
	for _, m := range s.Machines {
		if m.Agent != "" && m.Agent != agentReady {
			fmt.Fprintf(w, "%s: %s\n", m.Name, m.Agent)
		}
	}
	return err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
