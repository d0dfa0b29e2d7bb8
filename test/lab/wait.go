package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab/controlplane"
	"github.com/manx-cni/manx/test/lab/image"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/lab/machine"
	"github.com/manx-cni/manx/test/lab/node"
)

// patience bounds every wait for a component; a machine needs seconds, an emulated one minutes.
const patience = 10 * time.Minute

// poll calls done until it is satisfied; done's last error says what is missing.
func poll(ctx context.Context, done func(context.Context) error) error {
	return pollEvery(ctx, 100*time.Millisecond, done)
}

// pollEvery is poll with the least pause between two looks.
func pollEvery(ctx context.Context, interval time.Duration, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		start := time.Now()
		err := done(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(max(interval, time.Since(start))): // half of the time is for others
		}
	}
}

// explain adds the end of a component's log to err.
func (c *Cluster) explain(err error, machineName, component string) error {
	path := c.Log(machineName, component)
	if component == "" {
		path = machine.BootLog(c.Machine(machineName))
	}
	return fmt.Errorf("%w\nthe log %s ends with:\n%s", err, path, machine.Tail(path, 20))
}

func (c *Cluster) waitAPI(ctx context.Context) error {
	client, err := c.Clientset()
	if err != nil {
		return err
	}
	err = poll(ctx, func(ctx context.Context) error {
		return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return c.explain(fmt.Errorf("wait for the API server: %w", err), layout.Control, "kube-apiserver")
	}
	return nil
}

// publishConfig leaves what kubeadm leaves: a node agent reads the pod range from it.
func (c *Cluster) publishConfig(ctx context.Context, dualStack bool) error {
	client, err := c.Clientset()
	if err != nil {
		return err
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm-config", Namespace: metav1.NamespaceSystem},
		Data: map[string]string{"ClusterConfiguration": "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n" +
			"  dnsDomain: cluster.local\n  podSubnet: " + controlplane.PodCIDRs(dualStack) +
			"\n  serviceSubnet: " + controlplane.ServiceCIDRs(dualStack) + "\n"},
	}
	return poll(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().ConfigMaps(cm.Namespace).Create(ctx, cm, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// waitContainerd returns when containerd answers on the node.
func (c *Cluster) waitContainerd(ctx context.Context, name string) error {
	err := poll(ctx, func(ctx context.Context) error {
		_, err := c.Exec(ctx, name, "ctr", "--connect-timeout", "1s", "version")
		return err
	})
	if err != nil {
		return c.explain(fmt.Errorf("wait for containerd on %s: %w", name, err), name, "containerd")
	}
	return nil
}

// LoadImage loads a docker archive into the nodes' containerd; into every node when none is named.
func (c *Cluster) LoadImage(ctx context.Context, archive string, nodes ...string) error {
	if s, err := loadState(c.Lab); err == nil && s.Light {
		return fmt.Errorf("load image %s: %w", archive, errNoImages)
	}
	if _, err := image.Refs(archive); err != nil {
		return err
	}
	if len(nodes) == 0 {
		all, err := c.Nodes()
		if err != nil {
			return err
		}
		nodes = all
	}
	return inParallel(nodes, func(name string) error { return c.loadImage(ctx, name, archive) })
}

func (c *Cluster) loadImage(ctx context.Context, name, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	defer f.Close()
	snapshotter, err := node.Snapshotter(c.Lab, name)
	if err != nil {
		return err
	}
	_, err = c.run(ctx, name, ExecOptions{Stdin: f}, "ctr", "-n", "k8s.io", "images", "import", "--snapshotter", snapshotter, "-")
	if err != nil {
		return c.explain(fmt.Errorf("load image %s: %w", archive, err), name, "containerd")
	}
	return nil
}

// A nodeTest says what a node lacks, nil when nothing.
type nodeTest func(*corev1.Node) error

func registered(*corev1.Node) error { return nil }

func ready(n *corev1.Node) error {
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			if cond.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s is not Ready: %s", n.Name, cond.Message)
		}
	}
	return fmt.Errorf("node %s has not reported yet", n.Name)
}

// WaitReady returns when all nodes that are switched on are Ready, and in a light lab the
// pods of the manifest besides, which is when the agents' BGP sessions are established.
func (c *Cluster) WaitReady(ctx context.Context) error {
	s, err := loadState(c.Lab)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range s.Machines {
		if m.isNode() && m.Init.Alive() {
			names = append(names, m.Name)
		}
	}
	if !s.Light {
		return c.waitNodes(ctx, names, ready)
	}
	ctx, cancel := context.WithTimeout(ctx, lightPatience())
	defer cancel()
	if err := c.waitNodes(ctx, names, usable); err != nil {
		return err
	}
	if control := s.machine(layout.Control); control != nil && control.Init.Alive() { // else it is outside
		names = append(names, layout.Control)
	}
	return c.waitAgents(ctx, names)
}

func (c *Cluster) waitNodes(ctx context.Context, names []string, test nodeTest) error {
	client, err := c.Clientset()
	if err != nil {
		return err
	}
	var culprit string
	err = poll(ctx, func(ctx context.Context) error {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, name := range names {
			i := slices.IndexFunc(list.Items, func(n corev1.Node) bool { return n.Name == name })
			culprit = name
			if i < 0 {
				return fmt.Errorf("node %s is not registered", name)
			}
			if err := test(&list.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("wait for the nodes %s: %w", strings.Join(names, ", "), err)
	if culprit == "" {
		return err
	}
	if s, stateErr := loadState(c.Lab); stateErr == nil && s.Light {
		return c.explainLight(err, culprit)
	}
	return c.explain(err, culprit, "kubelet")
}
