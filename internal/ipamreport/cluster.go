package ipamreport

import (
	"net/netip"
	"slices"
	"strings"
)

// Cluster is one reading of everything that has to do with addresses.
type Cluster struct {
	Pools      []Pool
	Blocks     []Block
	Affinities []Affinity
	Handles    []Handle
	Pods       []Pod
	Nodes      []Node
	Agents     []Agent // those that answered
	// Malformed are objects that mean nothing, or not what their names say.
	Malformed []Malformed
}

// Pool is an IPPool.
type Pool struct {
	Name     string
	CIDR     netip.Prefix
	Disabled bool
	// Exported: the nodes announce its blocks over BGP.
	Exported bool
}

// Block is an IPAMBlock.
type Block struct {
	Name string
	CIDR netip.Prefix
	// Owner is the node that the block belongs to, or empty. Virtual is set when
	// something other than a node owns it, such as load-balancer.
	Owner   string
	Virtual bool
	// Unreadable: who holds its addresses is not known. A Malformed says why.
	Unreadable bool
	Assigned   []Assignment
}

// Affinity returns the block's affinity for a reader: host:NODE, or <none>.
func (b Block) Affinity() string {
	switch {
	case b.Owner == "":
		return "<none>"
	case b.Virtual:
		return "virtual:" + b.Owner
	}
	return "host:" + b.Owner
}

// Assignment is one address of a block that is not free.
type Assignment struct {
	Addr   netip.Addr
	Block  netip.Prefix
	Handle string // may be empty
	// Attrs describe the holder: pod, namespace, node, type, timestamp, interface.
	Attrs map[string]string
	// Sequence is the block's sequence number at the assignment; 0 is not known.
	Sequence int64
	// CoolingDown: released, and not free yet.
	CoolingDown bool
}

// The keys of Assignment.Attrs.
const (
	attrPod       = "pod"
	attrNamespace = "namespace"
	attrNode      = "node"
	attrType      = "type"
	attrInterface = "interface" // in the pod, when it is not eth0
	attrTimestamp = "timestamp"
)

// Node returns the node that uses the address according to IPAM.
func (a Assignment) Node() string { return a.Attrs[attrNode] }

// Holder says for whom the address is assigned.
func (a Assignment) Holder() string {
	var who string
	switch {
	case a.CoolingDown:
		return "nobody: it was released and cools down"
	case a.Attrs[attrPod] != "":
		who = "pod " + a.Attrs[attrNamespace] + "/" + a.Attrs[attrPod]
	case a.Attrs[attrType] != "":
		who = a.Attrs[attrType]
	case a.Handle != "":
		who = "handle " + a.Handle
	default:
		who = "an unnamed holder"
	}
	if n := a.Node(); n != "" {
		who += " on node " + n
	}
	return who
}

// Affinity is a BlockAffinity.
type Affinity struct {
	Name, Node string
	CIDR       netip.Prefix
	// Confirmed: the node owns the block for certain. State is its state otherwise.
	Confirmed bool
	State     string
	Virtual   bool // not a node's
}

// Handle is an IPAMHandle.
type Handle struct {
	Name string // of the object: the lower case of ID
	ID   string
	// Blocks is how many addresses the handle has in each block, as the object says.
	Blocks map[netip.Prefix]int
	// UID and Version tell this state of the object from any other.
	UID, Version string
}

// Pod is a pod with a network of its own.
type Pod struct {
	Namespace, Name string
	Node            string // empty until it is scheduled
	// Iface is the name of its interface on its node.
	Iface string
	Addrs []netip.Addr
	// Leaving: it is being deleted, so its addresses may be given back already.
	Leaving bool
	// Finished: it has ended and uses no address.
	Finished bool
}

// Node is a Kubernetes Node.
type Node struct {
	Name string
	// Addr and Addr6 are its own, by which BGP reaches it; either may be invalid.
	Addr, Addr6 netip.Addr
	// Tunnels are the addresses of its tunnel devices, by the type that IPAM notes.
	Tunnels map[string]netip.Addr
}

// speaks reports whether the node has the family of an address.
func (n Node) speaks(a netip.Addr) bool {
	if a.Is4() {
		return n.Addr.IsValid()
	}
	return n.Addr6.IsValid()
}

// Agent is what a node's agent says of its kernel and its BGP speaker.
type Agent struct {
	Node       string
	Interfaces []Interface
	// Learned are the prefixes that the others announce, with where to. Converged
	// says that what is not in it is not announced.
	Learned   []Learned
	Converged bool
}

// Interface is a pod's interface on its node.
type Interface struct {
	Name, Handle   string
	Namespace, Pod string
	Addrs          []netip.Addr
}

// Learned is a prefix and the nodes that announce it.
type Learned struct {
	Prefix   netip.Prefix
	NextHops []netip.Addr
}

// Malformed is an object that cannot be believed.
type Malformed struct {
	Kind, Name string
	Reason     string
}

// block returns the readable or unreadable block that has addr.
func (c *Cluster) block(addr netip.Addr) (Block, bool) {
	i := slices.IndexFunc(c.Blocks, func(b Block) bool { return b.CIDR.Contains(addr) })
	if i < 0 {
		return Block{}, false
	}
	return c.Blocks[i], true
}

// PoolOf returns the pool that has addr.
func (c *Cluster) PoolOf(addr netip.Addr) (Pool, bool) {
	i := slices.IndexFunc(c.Pools, func(p Pool) bool { return p.CIDR.Contains(addr) })
	if i < 0 {
		return Pool{}, false
	}
	return c.Pools[i], true
}

// BlocksOf returns the blocks that have addr: one, unless blocks overlap.
func (c *Cluster) BlocksOf(addr netip.Addr) (out []Block) {
	for _, b := range c.Blocks {
		if b.CIDR.Contains(addr) {
			out = append(out, b)
		}
	}
	return out
}

// isTunnel reports whether a type is that of a tunnel device's address.
func isTunnel(kind string) bool { return strings.HasSuffix(kind, "TunnelAddress") }
