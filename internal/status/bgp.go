package status

import "time"

// BGPPeers is what `manxctl bgp peers` prints of one node.
type BGPPeers struct {
	Node     string       `json:"node"`
	Sessions []BGPSession `json:"sessions"`
	// More is how many sessions are left out, because there are too many.
	More int `json:"more,omitempty"`
}

// BGPSession is one BGP session and why it is not up.
type BGPSession struct {
	Session
	// Why says why it is not established.
	Why string `json:"why,omitempty"`
}

// BGPRoutes is what `manxctl bgp routes` prints of one node.
type BGPRoutes struct {
	Node   string     `json:"node"`
	Kind   string     `json:"kind"` // best, received or advertised
	Routes []BGPRoute `json:"routes"`
	// More is how many routes are left out, because there are too many.
	More int `json:"more,omitempty"`
	// Converged: what peers have not announced is gone, rather than not heard yet.
	Converged bool `json:"converged"`
}

// BGPRoute is a prefix, or with --received one peer's path to it.
type BGPRoute struct {
	Prefix   string   `json:"prefix"`
	NextHops []string `json:"nextHops"`
	// Peers are those that it is from; with --advertised those that are not told of it,
	// because of a filter.
	Peers       []RoutePeer `json:"peers,omitempty"`
	LocalPref   uint32      `json:"localPref,omitempty"`
	ASPath      []uint32    `json:"asPath,omitempty"`
	Communities []string    `json:"communities,omitempty"`
	// Unused says why the path is not used. With --received.
	Unused string `json:"unused,omitempty"`
	// Kept: the peer restarts, and has not sent it again yet. With --received.
	Kept bool `json:"kept,omitempty"`
}

// RoutePeer is the other end of a session.
type RoutePeer struct {
	Peer    string `json:"peer"`              // its address
	Node    string `json:"node,omitempty"`    // its node name when it is one
	BGPPeer string `json:"bgpPeer,omitempty"` // the object that the session is from
}

// BGPFilters is what `manxctl bgp filters` prints of one node.
type BGPFilters struct {
	Node     string          `json:"node"`
	Sessions []SessionFilter `json:"sessions"`
	// More is how many sessions are left out, because there are too many.
	More int `json:"more,omitempty"`
}

// SessionFilter is what a session lets in and out. In either direction the first rule that
// matches a path decides; what none matches is rejected.
type SessionFilter struct {
	Name    string `json:"name"`
	Peer    string `json:"peer"`
	Node    string `json:"node,omitempty"`
	BGPPeer string `json:"bgpPeer,omitempty"`
	// Filters are the BGPFilters of its BGPPeer, in order.
	Filters []UsedFilter `json:"filters,omitempty"`
	Import  []BGPRule    `json:"import"`
	Export  []BGPRule    `json:"export"`
}

// UsedFilter is a BGPFilter that a session uses.
type UsedFilter struct {
	Name string `json:"name"`
	// Missing: there is no valid one of that name, so that nothing goes in or out.
	Missing bool `json:"missing,omitempty"`
}

// BGPRule is a rule of a session.
type BGPRule struct {
	From string `json:"from"` // the rule of a BGPFilter, or what else it is from
	Text string `json:"text"`
}

// Age renders how long before now t was, in the two largest units.
func Age(now, t time.Time) string { return (&printer{now: now}).age(t) }
