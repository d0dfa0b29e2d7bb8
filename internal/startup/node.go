package startup

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/autodetect"
	"github.com/manx-cni/manx/internal/config"
)

// address chooses the node's address, AS and router id, and makes sure that no
// other node has the address.
func (s *Startup) address(ctx context.Context, node *corev1.Node, ifaces []autodetect.Interface, sticky bool) (Result, error) {
	set := s.Settings
	stored := storedAddress(node)
	got, err := autodetect.Resolve(ctx, autodetect.Request{
		IP:          set.Address.IP,
		Method:      set.Address.Method,
		Stored:      stored,
		Sticky:      sticky,
		InternalIPs: internalIPs(node),
		Interfaces:  ifaces,
		Reach:       s.Reach,
	})
	if err != nil {
		return Result{}, err
	}
	if !got.Addr.IsValid() && set.BGP.Backend != config.BackendNone {
		return Result{}, fmt.Errorf("IP=%q: %w", set.Address.IP, errNoAddress)
	}
	res := Result{Address: got.Addr, Interface: got.Interface, Reason: got.Reason, AS: set.BGP.AS}
	if res.AS == 0 {
		// Nonsense counts as absent here; the datastore reports it on the Node.
		if as, err := config.ParseAS(node.Annotations[v1.AnnotationNodeAS]); err == nil {
			res.AS = as
		}
	}
	if got.Addr.IsValid() {
		res.RouterID = set.BGP.RouterID.For(s.NodeName, got.Addr.Addr())
	}
	if got.Addr.IsValid() && got.Addr != stored && !set.Address.SkipConflictCheck {
		return res, s.checkDuplicate(ctx, got.Addr.Addr())
	}
	return res, nil
}

// storedAddress reads the Node's address annotation; a bare address, which older
// versions of Calico wrote, stands for a /32. What does not parse counts as absent.
func storedAddress(node *corev1.Node) netip.Prefix {
	v := node.Annotations[v1.AnnotationNodeIPv4]
	if v != "" && !strings.Contains(v, "/") {
		v += "/32"
	}
	p, err := netip.ParsePrefix(v)
	if err != nil || !p.Addr().Is4() || !p.Addr().IsGlobalUnicast() {
		return netip.Prefix{}
	}
	return p
}

func internalIPs(node *corev1.Node) (out []netip.Addr) {
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			out = append(out, ip.Unmap())
		}
	}
	return out
}

// checkDuplicate looks for another Node that has published address a. It is asked
// only when the address is new, since it lists every Node.
func (s *Startup) checkDuplicate(ctx context.Context, a netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// Resource version 0: from the API server's cache, without touching etcd.
	nodes, err := s.Kubernetes.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("look for another node with address %s: list Nodes: %w", a, err)
	}
	for i := range nodes.Items {
		other := &nodes.Items[i]
		if other.Name != s.NodeName && storedAddress(other).Addr() == a {
			return fmt.Errorf("node %s already has the address %s (annotation %s=%q); want IP or IP_AUTODETECTION_METHOD to give an address of this machine, "+
				"or, if node %s is gone, kubectl delete node %s", other.Name, a, v1.AnnotationNodeIPv4, other.Annotations[v1.AnnotationNodeIPv4], other.Name, other.Name)
		}
	}
	return nil
}

// publish writes the node's address, and its AS when the environment gives one,
// to the Node's annotations, if they differ.
func (s *Startup) publish(ctx context.Context, node *corev1.Node, res Result) error {
	want := map[string]string{}
	if res.Address.IsValid() {
		want[v1.AnnotationNodeIPv4] = res.Address.String()
	}
	if s.Settings.BGP.AS != 0 {
		want[v1.AnnotationNodeAS] = strconv.FormatUint(uint64(s.Settings.BGP.AS), 10)
	}
	for k, v := range want {
		if node.Annotations[k] == v {
			delete(want, k)
		}
	}
	if len(want) == 0 {
		return nil
	}
	return s.patchStatus(ctx, map[string]any{"metadata": map[string]any{"annotations": want}})
}

// patchStatus patches the Node through nodes/status, the only part of Nodes that
// the agent may write.
func (s *Startup) patchStatus(ctx context.Context, patch map[string]any) error {
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("patch status of Node %s: %w", s.NodeName, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err = s.Kubernetes.CoreV1().Nodes().Patch(ctx, s.NodeName, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("patch status of Node %s with %s: %w", s.NodeName, data, err)
	}
	return nil
}

// The condition NetworkUnavailable of a node with working pod network.
const (
	reasonUp  = "ManxIsUp"
	messageUp = "Manx is running on this node"
)

// Annotate sets annotations of the Node; nil removes one.
func (s *Startup) Annotate(ctx context.Context, annotations map[string]*string) error {
	return s.patchStatus(ctx, map[string]any{"metadata": map[string]any{"annotations": annotations}})
}

// SetNetworkReady sets the Node's condition NetworkUnavailable to False, upon
// which the node controller removes the taint of that name. It writes only when
// the condition says something else, and does nothing with
// CALICO_NETWORKING_BACKEND=none.
func (s *Startup) SetNetworkReady(ctx context.Context) error {
	return s.setNetworkUnavailable(ctx, corev1.ConditionFalse, reasonUp, messageUp)
}

// SetNetworkUnavailable sets it to True, with the reason in CamelCase, upon which
// the node is tainted and new pods go elsewhere.
func (s *Startup) SetNetworkUnavailable(ctx context.Context, reason, message string) error {
	return s.setNetworkUnavailable(ctx, corev1.ConditionTrue, reason, message)
}

func (s *Startup) setNetworkUnavailable(ctx context.Context, status corev1.ConditionStatus, reason, message string) error {
	if s.Settings.BGP.Backend == config.BackendNone {
		return nil
	}
	node, err := s.getNode(ctx)
	if err != nil {
		return fmt.Errorf("set NetworkUnavailable to %s: read Node %s: %w", status, s.NodeName, err)
	}
	now := metav1.NewTime(s.Now())
	cond := corev1.NodeCondition{
		Type: corev1.NodeNetworkUnavailable, Status: status, Reason: reason, Message: message,
		LastHeartbeatTime: now, LastTransitionTime: now,
	}
	for _, c := range node.Status.Conditions {
		if c.Type != cond.Type || c.Status != cond.Status {
			continue
		}
		if c.Reason == reason && c.Message == message {
			return nil
		}
		cond.LastTransitionTime = c.LastTransitionTime // the reason is new, the status is not
	}
	if err := s.patchStatus(ctx, map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{cond}}}); err != nil {
		return fmt.Errorf("set NetworkUnavailable to %s: %w", status, err)
	}
	s.Log.Info("node condition set", "node", s.NodeName, "condition", fmt.Sprintf("NetworkUnavailable=%s", status), "reason", reason)
	return nil
}
