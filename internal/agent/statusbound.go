package agent

import (
	"fmt"

	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/status"
)

// sameKind is how many conditions of one kind the status page lists. 10,000 objects that
// are not valid must not make it one that cannot be sent (nodeapi's limit is 8 MiB).
const sameKind = 100

// bounded is a node's screen with a bound on what others can put on it: the texts that
// quote objects, peers and pods, and the number of conditions of one kind.
func bounded(n status.Node) status.Node {
	texts := make([]*string, 0, 64)
	for i := range n.NotReady {
		texts = append(texts, &n.NotReady[i])
	}
	for i := range n.Pools {
		texts = append(texts, &n.Pools[i].Why)
	}
	for i := range n.Sessions {
		texts = append(texts, &n.Sessions[i].LastError)
	}
	for i := range n.Dataplane {
		texts = append(texts, &n.Dataplane[i].LastError)
	}
	for i := range n.Errors {
		texts = append(texts, &n.Errors[i].Message)
	}
	if n.Tunnel != nil {
		texts = append(texts, &n.Tunnel.Why)
	}
	n.Conditions = fewOfAKind(n.Conditions)
	for i := range n.Conditions {
		texts = append(texts, &n.Conditions[i].Message)
	}
	for _, t := range texts {
		*t = excerpt.Message(*t)
	}
	return n
}

// fewOfAKind keeps the first conditions of each kind and says how many there are more.
func fewOfAKind(all []status.Condition) (out []status.Condition) {
	counts := map[string]int{}
	var order []string
	for _, c := range all {
		if counts[c.Type]++; counts[c.Type] == 1 {
			order = append(order, c.Type)
		}
		if counts[c.Type] <= sameKind {
			out = append(out, c)
		}
	}
	for _, kind := range order {
		if more := counts[kind] - sameKind; more > 0 {
			out = append(out, status.Condition{Type: kind, Message: fmt.Sprintf("and %d more of this kind", more)})
		}
	}
	return out
}
