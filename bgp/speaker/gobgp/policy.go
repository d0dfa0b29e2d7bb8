package gobgp

import (
	"context"
	"fmt"

	"github.com/osrg/gobgp/v4/api"

	"github.com/manx-cni/manx/bgp"
)

// Names of the two policies. GoBGP has per-neighbour policies for route-server
// clients only, so both are global.
const (
	globalRIB    = "global"
	importPolicy = "import"
	exportPolicy = "export"
)

// assignPolicies puts the two policies in force and makes rejection the default.
// SetPolicies has a field for that, which GoBGP v4.8.0 does not read; but it keeps
// what is assigned when it replaces the policies.
func (s *Speaker) assignPolicies(ctx context.Context) error {
	for name, direction := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		if err := s.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: globalRIB, Direction: direction, Policies: []*api.Policy{{Name: name}}, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
		}}); err != nil {
			return fmt.Errorf("put the %s policy in force: %w", name, err)
		}
	}
	return nil
}

// SetImport replaces the import rules in one step, then judges what the peers have
// sent so far again. Global import policy meets our own paths too, which is why the
// first statement lets local ones through.
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
	req.Policies = []*api.Policy{{Name: importPolicy, Statements: statements}, {Name: exportPolicy, Statements: []*api.Statement{{
		// Only what we announce ourselves: a node is no transit.
		Name:       "export-local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}}
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
