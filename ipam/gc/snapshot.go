package gc

import (
	"net/netip"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/block"
)

// Snapshot is what is known of a cluster at one time.
type Snapshot struct {
	// Epoch changes when what was seen before may not be compared with this: the
	// watches broke, were listed anew, or leadership was gained.
	Epoch uint64

	Facts
	Blocks     []Block
	Affinities []Affinity // of hosts
	Handles    []Handle
	// Unreadable has the names of the IPAMBlocks that make no sense. Nothing is
	// concluded about a handle that has addresses in one.
	Unreadable map[string]bool
}

// Facts are the nodes and pods that addresses are judged by.
type Facts struct {
	Nodes map[string]bool
	Pods  map[PodKey]Pod
}

// PodKey names a pod.
type PodKey struct{ Namespace, Name string }

func (k PodKey) String() string { return k.Namespace + "/" + k.Name }

// Pod is what matters of a pod.
type Pod struct {
	Node     string       // that it runs on; empty while it is not scheduled
	Finished bool         // its phase is Succeeded or Failed
	Addrs    []netip.Addr // that it reports, unmapped; empty: none yet
}

// Block is an IPAMBlock.
type Block struct {
	*block.Block
	Name    string
	Version string // resource version
}

// Affinity is a BlockAffinity of a host.
type Affinity struct {
	Name    string
	Version string // resource version
	Node    string
	CIDR    netip.Prefix
	State   v1.AffinityState
}

// Handle is an IPAMHandle.
type Handle struct {
	Name    string // of the object
	Version string // resource version
	ID      string // of the handle
	// NodeHash is the value of its label projectcalico.org/hostname-hash; empty
	// when Calico wrote it.
	NodeHash string
	Counts   map[netip.Prefix]int // addresses per block, as the object has them
}

// Release is an address that is not in use.
type Release struct {
	Block    netip.Prefix
	Addr     netip.Addr
	Handle   string // empty: the assignment has none
	Sequence int64  // of the assignment; 0: it has none
	Attrs    map[string]string
	Reason   string
}

// Expect narrows the release to the assignment that was seen.
func (r Release) Expect() block.Expect {
	var e block.Expect
	if r.Handle != "" {
		e.Handle = &r.Handle
	}
	if r.Sequence != 0 {
		e.Sequence = &r.Sequence
	}
	return e
}

// Removal takes a block from a node that is gone: the block is deleted when it
// is empty and loses its owner otherwise, and the affinity goes.
type Removal struct {
	CIDR     netip.Prefix
	Node     string
	Affinity string // the BlockAffinity's name; empty: there is none
}

// HandleFix makes an IPAMHandle say what the blocks say.
type HandleFix struct {
	Handle
	Want map[netip.Prefix]int // empty: delete it
}

// Plan is what to do, in this order.
type Plan struct {
	Releases []Release   // those of one handle are next to each other
	Removals []Removal   // of gone nodes, sorted by node
	Orphans  []Block     // empty blocks without an owner: delete
	Leavings []Affinity  // affinities that were being deleted, without a block: delete
	Handles  []HandleFix // see HandleFix

	// Candidates are all addresses that do not seem to be in use, whether or not
	// the time has come to release them.
	Candidates []Release
	// More is set when there would be more to do than one plan has room for.
	More bool
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool {
	return len(p.Releases) == 0 && len(p.Removals) == 0 && len(p.Orphans) == 0 && len(p.Leavings) == 0 && len(p.Handles) == 0
}
