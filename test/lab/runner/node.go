package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// Port is where the runner answers "kubectl exec" and "kubectl logs", as a kubelet does.
const Port = 10250

func byNode(node string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	}
}

// register makes the Node, once: one that is deleted later is made by the next runner.
func (r *runner) register(ctx context.Context) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.Node, Labels: map[string]string{
		corev1.LabelHostname: r.Node, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
	}}}
	for {
		_, err := r.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		r.log.Warn("the Node is not registered", "error", err)
		if !pause(ctx, retryPause/4) {
			return fmt.Errorf("register the node: %w", err)
		}
	}
}

// nodeEvery is how often a Node that is ready is looked at.
const nodeEvery = 3 * time.Second

// keepNode writes the Node's status when it changes. The condition of the network is the
// agent's own and stays as it is.
func (r *runner) keepNode(ctx context.Context) {
	var last corev1.NodeStatus
	said := ""
	for wait := eager; ; {
		now := r.nodeStatus(last)
		if !reflect.DeepEqual(now, last) {
			patch, err := statusPatch(now)
			if err == nil {
				_, err = r.client.CoreV1().Nodes().Patch(ctx, r.Node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
			}
			if err != nil && err.Error() != said && !apierrors.IsNotFound(err) {
				said = err.Error()
				r.log.Warn("the Node's status is not written", "error", err)
			}
			if err == nil {
				last = now
				if now.Conditions[0].Status == corev1.ConditionTrue {
					wait = nodeEvery
				}
			}
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// statusPatch is a strategic merge, which keeps others' conditions. The addresses are
// replaced, as the kubelet's are: by their types, they would merge two into one twice.
func statusPatch(s corev1.NodeStatus) ([]byte, error) {
	addresses := []any{map[string]string{"$patch": "replace"}}
	for _, a := range s.Addresses {
		addresses = append(addresses, a)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var status map[string]any
	if err := json.Unmarshal(b, &status); err != nil {
		return nil, err
	}
	status["addresses"] = addresses
	return json.Marshal(map[string]any{"status": status})
}

func (r *runner) nodeStatus(last corev1.NodeStatus) corev1.NodeStatus {
	now := metav1.Now().Rfc3339Copy()
	ready := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "RunnerReady",
		Message: "the lab's runner is ready", LastTransitionTime: now, LastHeartbeatTime: now,
	}
	if _, err := network(); err != nil {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "NetworkNotReady", "network is not ready: "+err.Error()
	}
	for _, c := range last.Conditions {
		if c.Type == ready.Type && c.Status == ready.Status && c.Message == ready.Message {
			ready = c
		}
	}
	has := corev1.ResourceList{
		corev1.ResourcePods: resource.MustParse("250"), corev1.ResourceCPU: *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: resource.MustParse("4Gi"),
	}
	s := corev1.NodeStatus{
		Capacity: has, Allocatable: has, Conditions: []corev1.NodeCondition{ready},
		NodeInfo: corev1.NodeSystemInfo{
			KubeletVersion: r.Kubernetes, ContainerRuntimeVersion: "lab://light",
			OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH, OSImage: "light node",
		},
	}
	s.DaemonEndpoints.KubeletEndpoint.Port = Port
	for _, a := range r.Addrs {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.Node})
	return s
}
