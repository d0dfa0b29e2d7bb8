package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab/host"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
)

// A light node counts as added, and a light lab as up, when a pod can be made on it at
// once: it is Ready, and its agent has set NetworkUnavailable to False, which it does when
// it serves the plugin. The BGP sessions are established one or two seconds later, as
// GoBGP waits before it connects; WaitReady returns then.

// lightPatience bounds the start of a light lab or node, which takes seconds.
func lightPatience() time.Duration {
	if host.Emulated() {
		return patience
	}
	return time.Minute
}

// What a light lab takes of a disk, in MiB, most of it etcd's log, and a node.
const lightDisk, lightNodeDisk = 160, 2

// room tells at once that the disk is too full for more nodes: what fails there later
// fails for reasons that are hard to find.
func room(l layout.Lab, nodes int) error {
	want := uint64(lightNodeDisk * nodes)
	if _, err := os.Stat(l.Machine(layout.Control)); err != nil {
		want += lightDisk
	}
	var st unix.Statfs_t
	if err := unix.Statfs(l.Dir(), &st); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", l.Dir(), err)
	}
	if free := st.Bavail * uint64(st.Bsize) >> 20; free < want {
		return fmt.Errorf("%s has %d MiB left, and %d nodes need %d; make room, or have labs elsewhere (%s)",
			l.Dir(), free, nodes, want, layout.RootEnv)
	}
	return nil
}

// waitServing returns when the API server accepts connections.
func (c *Cluster) waitServing(ctx context.Context) error {
	client, err := c.Clientset()
	if err != nil {
		return err
	}
	err = pollEvery(ctx, objectEvery, func(ctx context.Context) error {
		return client.RESTClient().Get().AbsPath("/version").MaxRetries(0).Do(ctx).Error()
	})
	if err != nil {
		return c.explain(fmt.Errorf("wait for the API server: %w", err), layout.Control, "kube-apiserver")
	}
	return nil
}

// usable tells why no pod can be made on a light node.
func usable(n *corev1.Node) error {
	if err := ready(n); err != nil {
		return err
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeNetworkUnavailable && cond.Status == corev1.ConditionFalse {
			return nil
		}
	}
	return fmt.Errorf("the agent of node %s does not serve pods yet", n.Name)
}

// waitUsable returns when pods can be made on light nodes.
func (c *Cluster) waitUsable(ctx context.Context, names []string) error {
	return c.waitNodes(ctx, names, usable)
}

// waitAgents returns when all pods that the manifest puts on light machines are ready:
// the agents when their BGP sessions are established.
func (c *Cluster) waitAgents(ctx context.Context, machines []string) error {
	client, err := c.Clientset()
	if err != nil {
		return err
	}
	culprit := ""
	err = poll(ctx, func(ctx context.Context) error {
		list, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, name := range machines {
			culprit = name
			if err := staticReady(list.Items, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || culprit == "" {
		return err
	}
	return c.explainLight(fmt.Errorf("wait for the pods of the manifest: %w", err), culprit)
}

func isMirror(p corev1.Pod) bool { return p.Annotations[corev1.MirrorPodAnnotationKey] != "" }

// staticReady tells which static pod of a machine is not ready, in its own words.
func staticReady(pods []corev1.Pod, machine string) error {
	found := false
	for _, p := range pods {
		if !isMirror(p) || p.Spec.NodeName != machine {
			continue
		}
		found = true
		i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
		if i < 0 {
			return fmt.Errorf("pod %s has not started", p.Name)
		}
		if c := p.Status.Conditions[i]; c.Status != corev1.ConditionTrue {
			return fmt.Errorf("pod %s is not ready: %s", p.Name, c.Message)
		}
	}
	if !found {
		return fmt.Errorf("%s has not started its pods", machine)
	}
	return nil
}

// explainLight adds to err what is found on a light machine: processes that are stopped,
// what the agent complained of last, and the runner.
func (c *Cluster) explainLight(err error, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if client, clientErr := c.Clientset(); clientErr == nil {
		if list, listErr := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{}); listErr == nil {
			if why := staticReady(list.Items, name); why != nil && !strings.Contains(err.Error(), why.Error()) {
				err = fmt.Errorf("%w\n%w", err, why)
			}
		}
	}
	for _, p := range c.stopped(ctx, name) {
		err = fmt.Errorf("%w\n%s; \"lab node restart %s\" begins again", err, p, name)
	}
	agent := c.Log(name, agentContainer)
	if said := lastComplaints(agent, 5); said != "" {
		err = fmt.Errorf("%w\nthe log %s complains last:\n%s", err, agent, said)
	}
	path := c.Log(name, "runner")
	return fmt.Errorf("%w\nthe log %s ends with:\n%s", err, path, machine.Tail(path, 5))
}

// stopped are the processes of a machine that a signal such as SIGSTOP has stopped.
func (c *Cluster) stopped(ctx context.Context, name string) (found []string) {
	out, err := c.Exec(ctx, name, "ps", "-eo", "stat=,pid=,args=")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 2 && f[0][0] == 'T' {
			found = append(found, fmt.Sprintf("process %s (%s) is stopped", f[1], strings.Join(f[2:], " ")))
		}
	}
	return found
}

// lastComplaints are the last n lines of an agent's log that are warnings or errors, or no
// records of a log at all, as of a program that crashed.
func lastComplaints(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var said []string
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if strings.Contains(line, `"level":"INFO"`) || strings.Contains(line, `"level":"DEBUG"`) {
			continue
		}
		if said = append(said, line); len(said) > n {
			said = said[1:]
		}
	}
	return strings.Join(said, "\n")
}
