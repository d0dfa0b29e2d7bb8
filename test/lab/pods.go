package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/manx-cni/manx/test/lab/image"
)

// Pod says what pod AddPod makes: one container that waits, or a web server when there is a Port.
type Pod struct {
	Namespace, Name, Node string
	Labels, Annotations   map[string]string
	// Port is where it answers HTTP with /hostname, /clientip and more (agnhost's netexec); 0: nowhere.
	Port int
}

// Object is the Pod as it is created, bound to its node, so that no scheduler is needed.
func (p Pod) Object() *corev1.Pod {
	zero, no := int64(0), false
	c := corev1.Container{Name: "c", Image: image.Agnhost, ImagePullPolicy: corev1.PullNever, Args: []string{"pause"}}
	if p.Port != 0 {
		c.Args = []string{"netexec", fmt.Sprintf("--http-port=%d", p.Port), "--udp-port=-1"}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, Annotations: p.Annotations},
		Spec: corev1.PodSpec{
			NodeName: p.Node, TerminationGracePeriodSeconds: &zero, AutomountServiceAccountToken: &no,
			DNSPolicy:   corev1.DNSDefault, // a lab has no cluster DNS
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:  []corev1.Container{c},
		},
	}
}

// podEvery is how often a pod is looked at that is waited for.
const podEvery = 5 * time.Millisecond

// AddPod makes a pod and returns its addresses, IPv4 before IPv6, when it runs.
func (c *Cluster) AddPod(ctx context.Context, p Pod) ([]netip.Addr, error) {
	nodes, err := c.Nodes()
	if err != nil {
		return nil, err
	}
	if p.Port < 0 || p.Port > 65535 {
		return nil, fmt.Errorf("pod %s: port %d: want 1 to 65535", p.Name, p.Port)
	}
	if !slices.Contains(nodes, p.Node) {
		return nil, fmt.Errorf("pod %s: lab %s has no node %q; it has %s", p.Name, c.Name, p.Node, strings.Join(nodes, ", "))
	}
	client, err := c.Clientset()
	if err != nil {
		return nil, err
	}
	pods := client.CoreV1().Pods(p.Namespace)
	if _, err := pods.Create(ctx, p.Object(), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	var addrs []netip.Addr
	ctx, cancel := context.WithTimeout(ctx, lightPatience())
	defer cancel()
	err = pollEvery(ctx, podEvery, func(ctx context.Context) error {
		now, err := pods.Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now.Status.Phase != corev1.PodRunning || len(now.Status.PodIPs) == 0 {
			return errors.New("it does not run yet")
		}
		addrs = nil
		for _, ip := range now.Status.PodIPs {
			a, err := netip.ParseAddr(ip.IP)
			if err != nil {
				return err
			}
			addrs = append(addrs, a)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for pod %s/%s on %s: %w; %s", p.Namespace, p.Name, p.Node, err, c.podEvents(context.WithoutCancel(ctx), p))
	}
	return addrs, nil
}

// podEvents are what the node says of a pod that does not run.
func (c *Cluster) podEvents(ctx context.Context, p Pod) string {
	client, err := c.Clientset()
	if err != nil {
		return err.Error()
	}
	list, err := client.CoreV1().Events(p.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.name", p.Name).String(),
	})
	if err != nil {
		return err.Error()
	}
	var said []string
	for _, e := range list.Items {
		said = append(said, e.Reason+": "+e.Message)
	}
	return fmt.Sprintf("its events: %q", said)
}

// DeletePod deletes a pod at once and returns when its object has gone, and with it, on
// a light node, its network.
func (c *Cluster) DeletePod(ctx context.Context, namespace, name string) error {
	client, err := c.Clientset()
	if err != nil {
		return err
	}
	pods := client.CoreV1().Pods(namespace)
	// Noted first and removed by its node, so that its network has gone when its object has.
	one := int64(1)
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &one}); err != nil {
		return fmt.Errorf("delete pod %s/%s: %w", namespace, name, err)
	}
	err = pollEvery(ctx, podEvery, func(ctx context.Context) error {
		_, err := pods.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is still there"))
	})
	if err != nil {
		return fmt.Errorf("wait for the end of pod %s/%s: %w", namespace, name, err)
	}
	return nil
}
