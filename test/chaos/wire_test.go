//go:build cluster

package chaos_test

import (
	"net/netip"
	"time"

	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/test/history"
)

// spec is the first line that a helper reads.
type spec struct {
	Host string
	TLS  rest.TLSClientConfig

	// For an agent.
	Node    string
	Plugged map[netip.Addr]string // the pod interfaces there are, with their handles
	Pods    map[string]string     // the pods that handles are for
	Epoch   time.Time             // its clock's start
	Speed   int                   // how much faster its clock goes than the wall's
	Broken  string                // how it is broken on purpose: brokenTwice, brokenBlind or not

	// For the controllers.
	Grace      time.Duration
	Kubeconfig string
	Metrics    uint16 // port
}

func (s spec) config() *rest.Config {
	return &rest.Config{Host: s.Host, TLSClientConfig: s.TLS, QPS: -1}
}

// verb is what an agent is told to do.
type verb string

const (
	verbAdd    verb = "add"    // addresses of Handle
	verbDel    verb = "del"    // release those of Handle
	verbPlug   verb = "plug"   // there is an interface with Addrs for Handle of Pod; no answer
	verbUnplug verb = "unplug" // there is none for Handle any more; no answer
	verbCancel verb = "cancel" // the order with that ID: nobody waits; no answer of its own
	verbFlush  verb = "flush"  // write every handle object
	verbSync   verb = "sync"   // read everything again
	verbState  verb = "state"
)

// order is a line to an agent. Orders are served at once, not one after the other;
// plug, unplug and cancel have been served when the next is.
type order struct {
	ID         int
	Verb       verb
	Handle     string
	Pod        string
	Attrs      map[string]string
	Num4, Num6 int
	Addrs      []netip.Addr
	Timeout    time.Duration
}

// answer is a line from an agent. Its first one, with ID 0, says that it is ready.
type answer struct {
	ID       int
	At       history.Instant
	Addrs    []netip.Addr
	Err      string
	Full     bool // the error is a *ipam.PoolFullError
	Counters ipam.Counters
	State    *state
}

// state is what an agent knows.
type state struct {
	Blocks   []ipam.BlockInfo
	ByHandle map[string][]netip.Addr
	Borrowed []netip.Addr
	Lent     map[netip.Addr]string
}

const (
	network      = "k8s-pod-network"
	namespace    = "default"
	orderTimeout = 15 * time.Second
)

// attrs are an owner's attributes as the agent writes them.
func attrs(node, pod string) map[string]string {
	return map[string]string{"pod": pod, "namespace": namespace, "node": node}
}

func ipPool(name, cidr string, blockSize int) *v1.IPPool {
	p := &v1.IPPool{Spec: v1.IPPoolSpec{CIDR: cidr, BlockSize: blockSize}}
	p.Name = name
	return p
}
