package bgp

import (
	"net/netip"
	"slices"
)

// Action is what becomes of a path that a statement matches.
type Action uint8

const (
	// Accept is the zero Action.
	Accept Action = iota
	Reject
)

// Policy says which paths come in and which go out. In either direction the first
// statement that matches a path decides; one that none matches is rejected.
type Policy struct {
	Import, Export []Statement
}

// Equal reports whether both policies say the same, in the same order.
func (p Policy) Equal(o Policy) bool {
	return slices.EqualFunc(p.Import, o.Import, Statement.Equal) && slices.EqualFunc(p.Export, o.Export, Statement.Equal)
}

// Statement matches paths and says what becomes of them. A condition that is not set
// matches every path, but for NextHops of an import: an empty list matches none, so that
// no list that came out empty lets everything in.
type Statement struct {
	Name string
	// Peers are the sessions that the statement is about, by the address at the other end:
	// who has sent a path that comes in, who is to get one that goes out. Nil: all of them.
	Peers []netip.Addr
	// Prefix, MinBits and MaxBits: the path's prefix is inside Prefix and between MinBits
	// and MaxBits long.
	Prefix           netip.Prefix
	MinBits, MaxBits int
	// Outside turns that round: the path's prefix, of the same family, is not such a one.
	Outside bool
	// NextHops are those that a path of the import may have; with AnyNextHop it may have any.
	NextHops   []netip.Addr
	AnyNextHop bool
	// Local matches what this speaker announces itself, Learned what it has from peers; in an
	// export only.
	Local, Learned bool
	// Attributes that a path must have. The speaker alone looks at them.
	Attributes Attributes
	Action     Action
	// Transit is for an import: what the statement accepts may be handed on to other peers, and
	// becomes no route here.
	Transit bool
	// Set is what becomes of an accepted path's attributes.
	Set Set
}

// Attributes are conditions on a path's attributes. The zero value matches every path.
type Attributes struct {
	// Community must be among the path's (RFC 1997, RFC 8092); zero: any path.
	Community Community
	// ASPathPrefix begins the AS path.
	ASPathPrefix []uint32
	// LocalPref is the path's; 0: any.
	LocalPref uint32
}

// Any reports whether every path matches.
func (a Attributes) Any() bool {
	return a.Community == Community{} && len(a.ASPathPrefix) == 0 && a.LocalPref == 0
}

func (a Attributes) equal(o Attributes) bool {
	return a.Community == o.Community && slices.Equal(a.ASPathPrefix, o.ASPathPrefix) && a.LocalPref == o.LocalPref
}

// Set is what a statement that accepts changes of a path. The zero value changes nothing.
type Set struct {
	LocalPref   uint32      // 0: as it is
	Communities []Community // added
	Prepend     []uint32    // AS numbers put before the path, the first one first
	NextHop     NextHopMode // of an export
}

func (s Set) equal(o Set) bool {
	return s.LocalPref == o.LocalPref && slices.Equal(s.Communities, o.Communities) &&
		slices.Equal(s.Prepend, o.Prepend) && s.NextHop == o.NextHop
}

// NextHopMode says which next hop a peer is told.
type NextHopMode uint8

const (
	// NextHopAuto is BGP's own rule, RFC 4271 §5.1.3: the address of this end of the session
	// for a peer of another AS, and the next hop as it is for one of the same AS.
	NextHopAuto NextHopMode = iota
	// NextHopSelf is the address of this end of the session.
	NextHopSelf
	// NextHopKeep is the next hop as it is.
	NextHopKeep
)

// Covers reports whether the statement is about prefix, whatever its next hop.
func (s Statement) Covers(prefix netip.Prefix) bool {
	if prefix.Addr().Is4() != s.Prefix.Addr().Is4() {
		return false
	}
	inside := prefix.Bits() >= s.MinBits && prefix.Bits() <= s.MaxBits &&
		prefix.Bits() >= s.Prefix.Bits() && s.Prefix.Contains(prefix.Addr())
	return inside != s.Outside
}

// IsFor reports whether the statement is about the session with peer.
func (s Statement) IsFor(peer netip.Addr) bool {
	return s.Peers == nil || slices.Contains(s.Peers, peer)
}

// Equal reports whether both statements say the same.
func (s Statement) Equal(o Statement) bool {
	return s.Name == o.Name && s.Prefix == o.Prefix && s.MinBits == o.MinBits && s.MaxBits == o.MaxBits && s.Outside == o.Outside &&
		(s.Peers == nil) == (o.Peers == nil) && slices.Equal(s.Peers, o.Peers) &&
		slices.Equal(s.NextHops, o.NextHops) && s.AnyNextHop == o.AnyNextHop &&
		s.Local == o.Local && s.Learned == o.Learned && s.Attributes.equal(o.Attributes) &&
		s.Action == o.Action && s.Transit == o.Transit && s.Set.equal(o.Set)
}

// Verdict is what an import policy says of a path.
type Verdict uint8

const (
	// Unmatched: no statement is about the prefix.
	Unmatched Verdict = iota
	// WrongNextHop: statements are about the prefix, and none of them about the next hop.
	WrongNextHop
	// Rejected and Accepted: by the first statement that matches.
	Rejected
	Accepted
	// ForOthers: accepted by a statement that makes no route of it (Statement.Transit).
	ForOthers
)

// Evaluator judges paths by the statements of an import policy. It is the policy's one
// meaning: a speaker's own rules are held against it. The zero value matches nothing.
type Evaluator struct {
	statements []evaluated
}

type evaluated struct {
	Statement
	hops map[netip.Addr]struct{}
}

// NewEvaluator reads the statements once; they must not be changed afterwards.
func NewEvaluator(statements []Statement) Evaluator {
	var e Evaluator
	sets := map[*netip.Addr]map[netip.Addr]struct{}{} // statements share their lists
	for _, s := range statements {
		if s.AnyNextHop {
			e.statements = append(e.statements, evaluated{s, nil})
			continue
		}
		if len(s.NextHops) == 0 {
			continue
		}
		set := sets[&s.NextHops[0]]
		if len(set) != len(s.NextHops) {
			set = make(map[netip.Addr]struct{}, len(s.NextHops))
			for _, h := range s.NextHops {
				set[h] = struct{}{}
			}
			sets[&s.NextHops[0]] = set
		}
		e.statements = append(e.statements, evaluated{s, set})
	}
	return e
}

// Judge says what becomes of the path to prefix by way of hop. Attributes are not known
// here: a statement that asks for some accepts what the speaker has let in by it, and
// rejects nothing.
func (e Evaluator) Judge(prefix netip.Prefix, hop Hop) Verdict {
	verdict := Unmatched
	for _, s := range e.statements {
		if !s.Covers(prefix) || !s.IsFor(hop.Peer) {
			continue
		}
		if _, ok := s.hops[hop.Next]; !ok && !s.AnyNextHop {
			verdict = WrongNextHop
			continue
		}
		switch {
		case s.Action == Accept && s.Transit:
			return ForOthers
		case s.Action == Accept:
			return Accepted
		}
		if s.Attributes.Any() {
			return Rejected
		}
	}
	return verdict
}

// NextHops are all that a statement names, each once.
func (e Evaluator) NextHops() map[netip.Addr]struct{} {
	all := map[netip.Addr]struct{}{}
	for _, s := range e.statements {
		for h := range s.hops {
			all[h] = struct{}{}
		}
	}
	return all
}
