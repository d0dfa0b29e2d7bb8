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
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/family"
)

// address chooses the node's addresses, AS and router id, and makes sure that no
// other node has one of the addresses. The start and the running agent (Redetect) ask it
// alike: what the one would choose, the other keeps.
func (s *Startup) address(ctx context.Context, node *corev1.Node, ifaces []autodetect.Interface) (Result, error) {
	res, err := s.address4(ctx, node, ifaces)
	if err != nil {
		return Result{}, err
	}
	return res, s.address6(ctx, node, ifaces, &res)
}

func (s *Startup) address4(ctx context.Context, node *corev1.Node, ifaces []autodetect.Interface) (Result, error) {
	set := s.Settings
	stored := storedAddress(node, family.IPv4)
	got, err := autodetect.Resolve(ctx, autodetect.Request{
		IP:          set.Address.IP,
		Method:      set.Address.Method,
		Stored:      stored,
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
		return res, s.claim(ctx, claimed{family.IPv4, got.Addr.Addr(), stored, ifaces, internalIPs(node)})
	}
	return res, nil
}

// address6 chooses the node's IPv6 address, if it is to have one.
func (s *Startup) address6(ctx context.Context, node *corev1.Node, ifaces []autodetect.Interface, res *Result) error {
	set := s.Settings.Address
	stored := storedAddress(node, family.IPv6)
	got, err := autodetect.Resolve(ctx, autodetect.Request{
		Family:      family.IPv6,
		IP:          set.IP6,
		Method:      set.Method6,
		Stored:      stored,
		InternalIPs: internalIPs(node),
		Interfaces:  ifaces,
		Reach:       s.Reach6,
	})
	if err != nil {
		return err
	}
	res.Address6, res.Interface6, res.Reason6 = got.Addr, got.Interface, got.Reason
	if got.Addr.IsValid() && got.Addr != stored && !set.SkipConflictCheck {
		return s.claim(ctx, claimed{family.IPv6, got.Addr.Addr(), stored, ifaces, internalIPs(node)})
	}
	return nil
}

// addressAnnotation is where a Node says its address.
func addressAnnotation(f family.Family) string {
	if f == family.IPv6 {
		return v1.AnnotationNodeIPv6
	}
	return v1.AnnotationNodeIPv4
}

// storedAddress reads the Node's address annotation; a bare address, which older
// versions of Calico wrote, stands for a /32 or /128. What does not parse counts as
// absent.
func storedAddress(node *corev1.Node, f family.Family) netip.Prefix {
	return stored(node.Annotations, f)
}

func stored(annotations map[string]string, f family.Family) netip.Prefix {
	v := annotations[addressAnnotation(f)]
	if v != "" && !strings.Contains(v, "/") {
		v += "/" + strconv.Itoa(f.Bits())
	}
	p, err := netip.ParsePrefix(v)
	if err != nil || !f.Has(p.Addr()) || !p.Addr().IsGlobalUnicast() {
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

// publish writes the node's addresses, and its AS when the environment gives one, to
// the Node's annotations, if they differ. A node without IPv6 that has been one with
// loses that annotation: other nodes would go on talking to the address.
func (s *Startup) publish(ctx context.Context, node *corev1.Node, res Result) error {
	want := map[string]string{}
	if res.Address.IsValid() {
		want[v1.AnnotationNodeIPv4] = res.Address.String()
	}
	if res.Address6.IsValid() {
		want[v1.AnnotationNodeIPv6] = res.Address6.String()
	}
	if s.Settings.BGP.AS != 0 {
		want[v1.AnnotationNodeAS] = strconv.FormatUint(uint64(s.Settings.BGP.AS), 10)
	}
	write := map[string]*string{}
	for k, v := range want {
		if node.Annotations[k] != v {
			write[k] = &v
		}
	}
	if old, has := node.Annotations[v1.AnnotationNodeIPv6]; has && !res.Address6.IsValid() {
		s.Log.Info("node IPv6 address withdrawn", "node", s.NodeName, "was", old, "reason", res.Reason6)
		write[v1.AnnotationNodeIPv6] = nil
	}
	if len(write) == 0 {
		return nil
	}
	return s.Annotate(ctx, write)
}

// patchStatus patches the Node through nodes/status, the only part of Nodes that
// the agent may write.
func (s *Startup) patchStatus(ctx context.Context, patch map[string]any) error {
	data, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("patch status of Node %s: %w", s.NodeName, err)
	}
	what := fmt.Sprintf("patch status of Node %s with %s", s.NodeName, excerpt.Message(string(data)))
	return s.ask(ctx, what, requestTimeout, func(ctx context.Context) error {
		_, err := s.Kubernetes.CoreV1().Nodes().Patch(ctx, s.NodeName, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
		return err
	})
}

// MessageUp is what the condition NetworkUnavailable of a node with working pod
// network says.
const MessageUp = "Manx is running on this node"

// Annotate sets annotations of the Node; nil removes one.
func (s *Startup) Annotate(ctx context.Context, annotations map[string]*string) error {
	return s.patchStatus(ctx, map[string]any{"metadata": map[string]any{"annotations": annotations}})
}

// ConditionMessage is message as the condition has it, which is bounded.
func ConditionMessage(message string) string { return excerpt.Message(message) }

// SetNetworkReady sets the Node's condition NetworkUnavailable to False, upon
// which the node controller removes the taint of that name. It writes only when
// the condition says something else, and does nothing with
// CALICO_NETWORKING_BACKEND=none.
func (s *Startup) SetNetworkReady(ctx context.Context) error {
	return s.SetNetworkUnavailable(ctx, corev1.ConditionFalse, v1.ReasonNodeNetworkUp, MessageUp)
}

// SetNetworkUnavailable sets it to a status, with the reason in CamelCase. With True the
// node is tainted, and new pods go elsewhere.
func (s *Startup) SetNetworkUnavailable(ctx context.Context, status corev1.ConditionStatus, reason, message string) error {
	if s.Settings.BGP.Backend == config.BackendNone {
		return nil
	}
	node, err := s.getNode(ctx)
	if err != nil {
		return fmt.Errorf("set NetworkUnavailable to %s: read Node %s: %w", status, s.NodeName, err)
	}
	message = ConditionMessage(message)
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
