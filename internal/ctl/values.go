package ctl

// What commands print with -o json and -o yaml, beside status.Node, status.Summary,
// preflight.Matrix and ipamreport.Report. Programs read it: fields are added, and
// neither renamed nor taken away. docs/reference/manxctl-output.md is made from here.

// Version is what `manxctl version` prints.
type Version struct {
	Version string `json:"version"` // of manxctl
}

// PoolMode is what `manxctl ippool mode` has done.
type PoolMode struct {
	Pool   string `json:"pool"`
	Before string `json:"before"` // the ipipMode that it had
	Mode   string `json:"mode"`   // the ipipMode that it has now
	Forced bool   `json:"forced"` // nodes go over to it although probes between them fail
	// Unforced is the mode that was forced until now, and no longer is.
	Unforced string `json:"unforced,omitempty"`
}

// IPAMUsage is what `manxctl ipam show` prints.
type IPAMUsage struct {
	Pools []RangeUsage `json:"pools"`
	// BlocksWithoutPool have addresses in use while their pool is gone. With --show-blocks.
	BlocksWithoutPool []RangeUsage `json:"blocksWithoutPool,omitempty"`
	Malformed         int          `json:"malformed"` // objects that are not counted, because they are malformed
}

// RangeUsage is how full a pool or a block is, in addresses. Reserved addresses are
// neither in use nor free.
type RangeUsage struct {
	CIDR   string       `json:"cidr"`
	Total  float64      `json:"total"`
	InUse  float64      `json:"inUse"`
	Free   float64      `json:"free"`
	Blocks []RangeUsage `json:"blocks,omitempty"` // of a pool, with --show-blocks
}

// IPAMBorrowed is what `manxctl ipam show --show-borrowed` prints.
type IPAMBorrowed struct {
	Addresses []BorrowedAddress `json:"addresses"`
	Unknown   int               `json:"unknown"`   // addresses of which IPAM does not say which node uses them
	Malformed int               `json:"malformed"` // objects that are not counted, because they are malformed
}

// BorrowedAddress is an address that is used on another node than its block's.
type BorrowedAddress struct {
	IP    string `json:"ip"`
	Node  string `json:"node"`          // that uses it
	Block string `json:"block"`         // CIDR
	Owner string `json:"owner"`         // node of the block
	Type  string `json:"type"`          // of the holder: pod, ipipTunnelAddress, …
	Pod   string `json:"pod,omitempty"` // namespace/name
}

// IPAMSettings is what `manxctl ipam show --show-configuration` and `manxctl ipam
// configure` print.
type IPAMSettings struct {
	StrictAffinity     bool `json:"strictAffinity"`     // nodes do not borrow addresses
	AutoAllocateBlocks bool `json:"autoAllocateBlocks"` // nodes claim blocks when they need addresses
	MaxBlocksPerHost   int  `json:"maxBlocksPerHost"`   // as set, of each address family; 0 is the default
	BlockLimit         int  `json:"blockLimit"`         // the limit that holds
}

// IPAMAddress is what `manxctl ipam show --ip` prints.
type IPAMAddress struct {
	IP          string              `json:"ip"`
	Assignments []AddressAssignment `json:"assignments"` // none: it is free; several: see manxctl ipam check
	Blocks      []AddressBlock      `json:"blocks"`      // that it is in
	Pool        string              `json:"pool,omitempty"`
	PoolCIDR    string              `json:"poolCIDR,omitempty"`
}

// AddressAssignment is one entry of a block for an address.
type AddressAssignment struct {
	Block       string            `json:"block"` // CIDR
	Handle      string            `json:"handle,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`  // of the holder: pod, namespace, node, type, timestamp
	CoolingDown bool              `json:"coolingDown,omitempty"` // released, and not free yet
	Borrowed    bool              `json:"borrowed,omitempty"`    // used on another node than the block's
	Sequence    int64             `json:"sequence,omitempty"`    // of the block at the assignment
}

// AddressBlock is a block and whose it is.
type AddressBlock struct {
	CIDR     string `json:"cidr"`
	Affinity string `json:"affinity"` // host:NODE, virtual:NAME or <none>
}

// IPAMRelease is what `manxctl ipam release` has done.
type IPAMRelease struct {
	Released        []ReleasedAddress `json:"released"`
	AlreadyReleased []string          `json:"alreadyReleased"` // addresses that were free before, or have a new holder
	Kept            []KeptAddress     `json:"kept"`            // because they are in use
	Handles         []string          `json:"handles"`         // that were removed
	// NotAsked are the nodes that are judged by the Kubernetes API alone, with the reason.
	NotAsked map[string]string `json:"notAsked,omitempty"`
}

// ReleasedAddress is an address that was released.
type ReleasedAddress struct {
	IP     string `json:"ip"`
	Block  string `json:"block"`  // CIDR
	Holder string `json:"holder"` // for whom it was assigned
}

// KeptAddress is an address that was not released.
type KeptAddress struct {
	IP     string   `json:"ip"`
	UsedBy []string `json:"usedBy"`
}

// Uninstall is what `manxctl uninstall` has done, or would do.
type Uninstall struct {
	Done  bool `json:"done"`  // Manx is off every node
	Nodes int  `json:"nodes"` // that it was on, or is
	// PodsWithoutNetwork is how many running pods would lose their network. Without --yes.
	PodsWithoutNetwork int      `json:"podsWithoutNetwork,omitempty"`
	Clean              []string `json:"clean,omitempty"` // names of the nodes that are clean
}
