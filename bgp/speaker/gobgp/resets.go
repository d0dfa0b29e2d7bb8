package gobgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"

	"github.com/manx-cni/manx/bgp"
)

// rejudge has the peers that a change of policies is about judged again: what they have sent
// by the import rules, what they are told by the export rules. The sessions of the others
// are not touched: a reset goes through all paths of a peer, and tells it all of ours again.
func (s *Speaker) rejudge(ctx context.Context, now bgp.Policy) error {
	was := s.judged
	// Until all of it is done, nothing is known of what the peers were judged by.
	s.judged = nil
	for _, of := range []struct {
		direction api.ResetPeerRequest_Direction
		does      string
		was, now  []bgp.Statement
	}{
		{api.ResetPeerRequest_DIRECTION_IN, "judge what %s has sent by the new rules: %w", was.imports(), now.Import},
		{api.ResetPeerRequest_DIRECTION_OUT, "send %s what the new rules let out: %w", was.exports(), now.Export},
	} {
		before, after := sortStatements(of.was), sortStatements(of.now)
		for addr := range s.peers {
			if was != nil && sameRules(before.of(addr), after.of(addr)) {
				continue
			}
			if err := s.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: addr.String(), Soft: true, Direction: of.direction}); err != nil {
				return fmt.Errorf(of.does, addr, err)
			}
		}
	}
	s.judged = &judged{now}
	return nil
}

// judged is the policy by which all peers have been judged; nil: not known.
type judged struct{ bgp.Policy }

func (j *judged) imports() []bgp.Statement {
	if j == nil {
		return nil
	}
	return j.Import
}

func (j *judged) exports() []bgp.Statement {
	if j == nil {
		return nil
	}
	return j.Export
}

// sorted are the statements of one direction by whom they are about. There can be some for
// each of thousands of peers.
type sorted struct {
	all  []bgp.Statement
	any  []int // those about every session, in order
	only map[netip.Addr][]int
}

func sortStatements(all []bgp.Statement) sorted {
	s := sorted{all: all, only: map[netip.Addr][]int{}}
	for i, st := range all {
		if st.Peers == nil {
			s.any = append(s.any, i)
		}
		for _, p := range st.Peers {
			if n := len(s.only[p]); n == 0 || s.only[p][n-1] != i { // named twice
				s.only[p] = append(s.only[p], i)
			}
		}
	}
	return s
}

// of are the statements that can decide about a session, in order.
func (s sorted) of(peer netip.Addr) (out []bgp.Statement) {
	indices := s.any
	if only := s.only[peer]; len(only) > 0 {
		indices = slices.Concat(s.any, only)
		slices.Sort(indices)
	}
	for _, i := range indices {
		if st := s.all[i]; !st.Prefix.IsValid() || st.Prefix.Addr().Is4() == peer.Is4() {
			out = append(out, st)
		}
	}
	return out
}

// sameRules reports whether both lists of a session decide the same, whatever the statements
// are called, and whatever other sessions they are about.
func sameRules(a, b []bgp.Statement) bool {
	return slices.EqualFunc(a, b, func(x, y bgp.Statement) bool {
		x.Name, x.Peers, y.Name, y.Peers = "", nil, "", nil
		return x.Equal(y)
	})
}
