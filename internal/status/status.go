// Package status holds the one-screen picture of a node: the value that the
// agent publishes on its socket, and the text that manxctl prints of it.
//
// It is a leaf: plain values that marshal to JSON, so that manxctl, tests and
// scripts (-o json) read the same fields. It owns no state and no kernel object.
package status

import (
	"net/netip"
	"time"
)

// Node is everything `manxctl status` shows of one node.
type Node struct {
	Name         string       `json:"name"`
	Version      string       `json:"version"`
	Started      time.Time    `json:"started"`
	Ready        bool         `json:"ready"`
	NotReady     []string     `json:"notReady,omitempty"` // one reason a line
	Address      Address      `json:"address"`
	Mode         string       `json:"mode"` // how pods' packets leave the node: "BGP", "IPIP Always", …
	Tunnel       *Tunnel      `json:"tunnel,omitempty"`
	Pools        []Pool       `json:"pools"`
	Sessions     []Session    `json:"sessions"`
	Blocks       []Block      `json:"blocks"`
	Endpoints    int          `json:"endpoints"`
	Dataplane    []Driver     `json:"dataplane"`
	Capabilities []Capability `json:"capabilities"`
	Dropped      []Drop       `json:"dropped,omitempty"`
	Conditions   []Condition  `json:"conditions,omitempty"`
	Settings     []Setting    `json:"settings,omitempty"` // that have no effect
	Errors       []Error      `json:"errors,omitempty"`
	// Addresses is absent until the agent has read its kernel.
	Addresses *Addresses `json:"addresses,omitempty"`
}

// Address is the node's place in the network and why it was chosen.
type Address struct {
	IPv4      string `json:"ipv4"` // CIDR
	Reason    string `json:"reason"`
	Interface string `json:"interface"` // that has IPv4
	// IPv6, Reason6 and Interface6 are the same of IPv6, absent on a node without.
	IPv6       string `json:"ipv6,omitempty"`
	Reason6    string `json:"reason6,omitempty"`
	Interface6 string `json:"interface6,omitempty"`
	MTU        int    `json:"mtu"` // bytes, of pod interfaces
	AS         uint32 `json:"as"`
	RouterID   string `json:"routerID"`
}

// Pool is one IPPool as it acts on this node.
type Pool struct {
	Name        string `json:"name"`
	CIDR        string `json:"cidr"`
	Mode        string `json:"mode"` // how this node sends to it: "BGP", "IPIP Always", …
	NATOutgoing bool   `json:"natOutgoing"`
	Disabled    bool   `json:"disabled,omitempty"`
	// Target is the pool's ipipMode and Stage how far this node is on the way to
	// it: preparing, accepting, verified or sending.
	Target string `json:"target,omitempty"`
	Stage  string `json:"stage,omitempty"`
	// Why says why the mode is what it is.
	Why string `json:"why,omitempty"`
}

// Tunnel is the tunnel device.
type Tunnel struct {
	Name  string `json:"name"`
	Addr  string `json:"addr,omitempty"`
	MTU   int    `json:"mtu"` // bytes
	Ready bool   `json:"ready"`
	// Why says what it is there for when no pool asks for it.
	Why string `json:"why,omitempty"`
}

// Drop is a kind of packets that the packet filter refused, and how many.
type Drop struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
}

// Session is one BGP session.
type Session struct {
	Name       string    `json:"name"` // Mesh_10_0_0_2
	Peer       string    `json:"peer"`
	Port       uint16    `json:"port,omitempty"`    // of the peer, when it is not 179
	Node       string    `json:"node,omitempty"`    // the peer's node name when it is one
	BGPPeer    string    `json:"bgpPeer,omitempty"` // the object that it is from; empty: the mesh
	AS         uint32    `json:"as"`
	State      string    `json:"state"` // RFC 4271 §8.2.2
	Since      time.Time `json:"since"`
	Received   int       `json:"received"`          // routes in Adj-RIB-In
	Accepted   int       `json:"accepted"`          // of these, past the import rules
	Refused    int       `json:"refused,omitempty"` // of those received, which no import rule lets in
	Advertised int       `json:"advertised"`        // routes in Adj-RIB-Out
	Flaps      int       `json:"flaps"`             // how often it was lost
	// ShutOuts is how often the peer was shut out because it sent too much.
	ShutOuts  int    `json:"shutOuts,omitempty"`
	LastError string `json:"lastError,omitempty"`
}

// Of is what the session is with: a node, or the router of a BGPPeer.
func (s Session) Of() string {
	if s.Node == "" && s.BGPPeer != "" {
		return "BGPPeer/" + s.BGPPeer
	}
	return s.Node
}

// Block is one of the node's own blocks.
type Block struct {
	CIDR  string `json:"cidr"`
	State string `json:"state"` // BlockAffinity state
	Used  int    `json:"used"`
	Size  int    `json:"size"`
}

// Addresses is who uses which address as this node sees it: what `manxctl ipam check`
// compares with IPAM.
type Addresses struct {
	Interfaces []Interface `json:"interfaces"` // of this node's pods
	Learned    []Learned   `json:"learned"`    // what other nodes announce
	// Converged: what is not in Learned is not announced, rather than not heard yet.
	Converged bool `json:"converged"`
}

// Interface is a pod's interface on the node.
type Interface struct {
	Name      string       `json:"name"`
	Handle    string       `json:"handle"` // the IPAM handle
	Namespace string       `json:"namespace,omitempty"`
	Pod       string       `json:"pod,omitempty"`
	Addrs     []netip.Addr `json:"addrs"`
}

// Learned is a prefix learned over BGP and the nodes that it leads to.
type Learned struct {
	Prefix   netip.Prefix `json:"prefix"`
	NextHops []netip.Addr `json:"nextHops"`
}

// Driver is the state of one dataplane driver.
type Driver struct {
	Name      string    `json:"name"`
	Objects   int       `json:"objects"` // kernel objects it holds
	Pending   int       `json:"pending"` // of these, not as wanted yet
	Failures  int       `json:"failures"`
	LastApply time.Time `json:"lastApply"`
	LastError string    `json:"lastError,omitempty"`
}

// Capability is one thing the kernel can or cannot do.
type Capability struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Detail    string `json:"detail,omitempty"`
}

// Condition is a state that someone should know of.
type Condition struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

// Error is a failure that was seen, the newest of its kind, and how often.
type Error struct {
	Component string    `json:"component"`
	Message   string    `json:"message"`
	Last      time.Time `json:"last"`
	Count     int       `json:"count"`
}
