package gc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Keys of an assignment's attributes, as Calico writes them.
const (
	attrPod       = "pod"
	attrNamespace = "namespace"
	attrNode      = "node"
	attrType      = "type"
	// attrInterface is Manx's own: the name of an interface in the pod other than eth0.
	attrInterface = "interface"
)

// PodOf returns the pod that the attributes of an assignment name, if any.
func PodOf(attrs map[string]string) (PodKey, bool) {
	k := PodKey{Namespace: attrs[attrNamespace], Name: attrs[attrPod]}
	return k, k.Namespace != "" && k.Name != "" && attrs[attrType] == ""
}

// NodeOf returns the node that the attributes of an assignment name, or nothing.
func NodeOf(attrs map[string]string) string { return attrs[attrNode] }

// Judge returns why addr, assigned with these attributes, is not in use; empty
// when it is, or when that cannot be known. Facts that do not have the pod or
// the node say that it does not exist.
func Judge(addr netip.Addr, attrs map[string]string, f Facts) string {
	node := attrs[attrNode]
	gone := node != "" && !f.Nodes[node]
	if kind := attrs[attrType]; kind != "" {
		if gone {
			return fmt.Sprintf("%s of node %s, which does not exist", kind, node)
		}
		return ""
	}
	key, ok := PodOf(attrs)
	if !ok {
		return ""
	}
	pod, exists := f.Pods[key]
	switch {
	case !exists && gone:
		return fmt.Sprintf("neither pod %s nor its node %s exists", key, node)
	case !exists:
		return fmt.Sprintf("pod %s does not exist", key)
	case pod.Finished:
		return fmt.Sprintf("pod %s has finished", key)
	case slices.Contains(pod.Addrs, addr.Unmap()):
		return ""
	case node != "" && pod.Node == "":
		return fmt.Sprintf("pod %s of node %s is gone; another of its name waits for a node", key, node)
	case node != "" && pod.Node != node:
		return fmt.Sprintf("pod %s of node %s is gone; another of its name runs on %s", key, node, pod.Node)
	case attrs[attrInterface] != "":
		return "" // a pod reports the addresses of eth0 alone
	case len(pod.Addrs) > 0:
		return fmt.Sprintf("pod %s has %s instead", key, list(pod.Addrs))
	}
	return ""
}

func list(addrs []netip.Addr) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, " and ")
}
