package startup

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/family"
)

// claimed is an address that this node is about to publish, and what speaks for it.
type claimed struct {
	family   family.Family
	addr     netip.Addr
	stored   netip.Prefix // what the Node says now
	ifaces   []autodetect.Interface
	internal []netip.Addr // that our own kubelet reports
}

// has reports whether an interface of this machine has a.
func has(ifaces []autodetect.Interface, a netip.Addr) bool {
	return slices.ContainsFunc(ifaces, func(i autodetect.Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

const (
	// yieldTries is how often others are looked at again, every RetryEvery, once this
	// node has withdrawn a claim of its own: they may wait for just that.
	yieldTries = 10
	// staleAfter is how long a kubelet that has said "not ready" and then nothing counts
	// as there, where no node controller says so: twice the longest time between two of
	// its reports (nodeStatusReportFrequency, 5 min).
	staleAfter = 10 * time.Minute
)

// claim makes sure that no other node has the address. It is asked only when the address
// is new, since it lists every Node.
//
// What a Node says of its address was true when its agent last started, so it is worth
// less than what can be seen now. This node's own word goes first: when none of its
// interfaces has the address that is stored, the annotation is withdrawn before others
// are judged. Two machines that have each other's former address would else refuse for
// ever, each because of the other's old word. And the word of a Node whose kubelet does
// not report any longer (the machine has another name now, or is gone) does not stand
// against the kernel's and our own kubelet's.
func (s *Startup) claim(ctx context.Context, c claimed) error {
	var withdrawn bool
	for tries := 0; ; tries++ {
		nodes, err := s.listNodes(ctx, c.addr)
		if err != nil {
			return err
		}
		err = s.judge(c, nodes.Items)
		switch {
		case err == nil:
			return nil
		case !withdrawn && c.stored.IsValid() && !has(c.ifaces, c.stored.Addr()):
			s.Log.Info("node address withdrawn: no interface of this machine has it any longer", "node", s.NodeName, "was", c.stored)
			if err := s.Annotate(ctx, map[string]*string{addressAnnotation(c.family): nil}); err != nil {
				return err
			}
			withdrawn = true
			continue
		case !withdrawn || !s.starting || tries > yieldTries:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(s.RetryEvery):
		}
	}
}

// listNodes lists all Nodes, from the API server's cache (resource version 0), without
// touching etcd.
func (s *Startup) listNodes(ctx context.Context, a netip.Addr) (nodes *corev1.NodeList, err error) {
	err = s.ask(ctx, fmt.Sprintf("look for another node with address %s: list Nodes", a), listTimeout, func(ctx context.Context) (err error) {
		nodes, err = s.Kubernetes.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		return err
	})
	return nodes, err
}

// judge returns an error when one of the nodes has the address and is there.
func (s *Startup) judge(c claimed, nodes []corev1.Node) error {
	annotation, variable := addressAnnotation(c.family), autodetect.Variable(c.family)
	for i := range nodes {
		other := &nodes[i]
		if other.Name == s.NodeName || storedAddress(other, c.family).Addr() != c.addr {
			continue
		}
		why := s.presence(other)
		ours := has(c.ifaces, c.addr) || slices.Contains(c.internal, c.addr)
		if why == "" && ours {
			s.Log.Warn("another Node claims this node's address, and its kubelet does not report any longer; going on with what this machine has",
				"node", s.NodeName, "address", c.addr, "other", other.Name, "remedy", "kubectl delete node "+other.Name)
			continue
		}
		if why == "" {
			why = "its kubelet does not report any longer, but no interface of this machine has the address either"
		}
		return fmt.Errorf("node %s already has the address %s (annotation %s=%q); "+
			"want %s or %s_AUTODETECTION_METHOD to give an address of this machine, "+
			"or, if node %s is gone, kubectl delete node %s (%s)", other.Name, c.addr, annotation,
			other.Annotations[annotation], variable, variable, other.Name, other.Name, why)
	}
	return nil
}

// presence says why a Node counts as there; "" when it does not.
func (s *Startup) presence(n *corev1.Node) string {
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	switch {
	case datastore.Absent(n):
		return ""
	case i < 0:
		return "nothing says that it is gone"
	}
	c := n.Status.Conditions[i]
	silent := s.Now().Sub(latest(c.LastHeartbeatTime, c.LastTransitionTime))
	if c.Status == corev1.ConditionFalse && silent > staleAfter {
		return ""
	}
	return "it is there, its kubelet says Ready=" + strings.TrimSpace(string(c.Status))
}

// still is res without the addresses that an interface of this machine had and none has
// any longer.
func (s *Startup) still(res Result) (Result, error) {
	ifaces, err := s.Interfaces()
	if err != nil {
		return Result{}, err
	}
	if res.Interface != "" && !has(ifaces, res.Address.Addr()) {
		res.Address = netip.Prefix{}
	}
	if res.Interface6 != "" && !has(ifaces, res.Address6.Addr()) {
		res.Address6 = netip.Prefix{}
	}
	return res, nil
}

func latest(a, b metav1.Time) time.Time {
	if a.Before(&b) {
		return b.Time
	}
	return a.Time
}
