package datastore

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Own is what this agent's Node says in the fields that the agent writes.
type Own struct {
	// Annotations are those of Calico and Manx. The map must not be changed.
	Annotations map[string]string
	// Unavailable is its condition NetworkUnavailable; zero when it has none.
	Unavailable NodeCondition
}

// NodeCondition is what a condition of a Node says, without when it was said.
type NodeCondition struct {
	Status          corev1.ConditionStatus
	Reason, Message string
}

func ownOf(n *corev1.Node) *Own {
	out := &Own{Annotations: maps.Clone(n.Annotations)}
	maps.DeleteFunc(out.Annotations, func(k, _ string) bool {
		return !strings.HasPrefix(k, "projectcalico.org/") && !strings.HasPrefix(k, "manx.io/")
	})
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			out.Unavailable = NodeCondition{c.Status, c.Reason, c.Message}
		}
	}
	return out
}

// Own returns what the agent's own Node says; false while there is none, or before the
// first list.
func (d *Datastore) Own() (Own, bool) {
	o, ok := d.stored(kindNode, d.node).(*nodeObject)
	if !ok || o.own == nil {
		return Own{}, false
	}
	return *o.own, true
}
