package gobgp

import (
	"context"
	"fmt"

	"github.com/osrg/gobgp/v4/api"

	"github.com/manx-cni/manx/bgp"
)

// SetImport replaces the import rules in one step, then judges what the peers have
// sent so far again. GoBGP has per-neighbour policy for route-server clients only,
// so the rules are global; global import policy meets our own paths too, which is
// why the first statement lets local ones through.
func (s *Speaker) SetImport(ctx context.Context, accept []bgp.Statement) error {
	req := &api.SetPoliciesRequest{}
	statements := []*api.Statement{{
		Name:       "import-local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}
	for i, st := range accept {
		name := fmt.Sprintf("%d-%s", i, st.Name)
		// A statement without next hops would match every next hop.
		if len(st.NextHops) == 0 {
			continue
		}
		req.DefinedSets = append(req.DefinedSets, &api.DefinedSet{
			DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: name,
			Prefixes: []*api.Prefix{{
				IpPrefix: st.Prefix.String(), MaskLengthMin: uint32(st.MinBits), MaskLengthMax: uint32(st.MaxBits),
			}},
		})
		hops := make([]string, len(st.NextHops))
		for i, h := range st.NextHops {
			hops[i] = h.String()
		}
		statements = append(statements, &api.Statement{
			Name: "import-" + name,
			Conditions: &api.Conditions{
				PrefixSet:     &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: name},
				NextHopInList: hops,
			},
			Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
		})
	}
	imports := &api.Policy{Name: "import", Statements: statements}
	exports := &api.Policy{Name: "export", Statements: []*api.Statement{{
		// Only what we announce ourselves: a node is no transit.
		Name:       "export-local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	req.Policies = []*api.Policy{imports, exports}
	const global = "global"
	req.Assignments = []*api.PolicyAssignment{
		{Name: global, Direction: api.PolicyDirection_POLICY_DIRECTION_IMPORT, Policies: []*api.Policy{imports}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT},
		{Name: global, Direction: api.PolicyDirection_POLICY_DIRECTION_EXPORT, Policies: []*api.Policy{exports}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT},
	}
	if err := s.server.SetPolicies(ctx, req); err != nil {
		return err
	}
	if len(s.peers) == 0 {
		return nil
	}
	if err := s.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: "all", Soft: true, Direction: api.ResetPeerRequest_DIRECTION_IN}); err != nil {
		return fmt.Errorf("judge received paths by the new rules: %w", err)
	}
	return nil
}
