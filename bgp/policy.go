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
	// Prefix, MinBits and MaxBits: the path's prefix is inside Prefix and between MinBits
	// and MaxBits long.
	Prefix           netip.Prefix
	MinBits, MaxBits int
	// NextHops are those that a path of the import may have.
	NextHops []netip.Addr
	// Local matches what this speaker announces itself; in an export only.
	Local  bool
	Action Action
}

// Covers reports whether the statement is about prefix, whatever its next hop.
func (s Statement) Covers(prefix netip.Prefix) bool {
	return prefix.Bits() >= s.MinBits && prefix.Bits() <= s.MaxBits &&
		prefix.Bits() >= s.Prefix.Bits() && s.Prefix.Contains(prefix.Addr())
}

// Equal reports whether both statements say the same.
func (s Statement) Equal(o Statement) bool {
	return s.Name == o.Name && s.Prefix == o.Prefix && s.MinBits == o.MinBits && s.MaxBits == o.MaxBits &&
		slices.Equal(s.NextHops, o.NextHops) && s.Local == o.Local && s.Action == o.Action
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

// Judge says what becomes of the path to prefix by way of nextHop.
func (e Evaluator) Judge(prefix netip.Prefix, nextHop netip.Addr) Verdict {
	verdict := Unmatched
	for _, s := range e.statements {
		if !s.Covers(prefix) {
			continue
		}
		if _, ok := s.hops[nextHop]; !ok {
			verdict = WrongNextHop
			continue
		}
		if s.Action == Reject {
			return Rejected
		}
		return Accepted
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
