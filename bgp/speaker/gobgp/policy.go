package gobgp

import (
	"context"
	"fmt"
	"slices"

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

// SetPolicies replaces both policies in one step, then judges what the peers have sent so
// far again. Global import policy meets our own paths too, which is why the first statement
// lets local ones through.
func (s *Speaker) SetPolicies(ctx context.Context, p bgp.Policy) error {
	req := &api.SetPoliciesRequest{}
	imports := []*api.Statement{{
		Name:       "import-local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}
	for i, st := range p.Import {
		// A statement without next hops would match every next hop.
		if len(st.NextHops) > 0 {
			imports = append(imports, statementOf(req, importPolicy, i, st))
		}
	}
	var exports []*api.Statement
	for i, st := range p.Export {
		exports = append(exports, statementOf(req, exportPolicy, i, st))
	}
	req.Policies = []*api.Policy{{Name: importPolicy, Statements: imports}, {Name: exportPolicy, Statements: exports}}
	if err := s.server.SetPolicies(ctx, req); err != nil {
		return err
	}
	exported := slices.EqualFunc(p.Export, s.exports, bgp.Statement.Equal)
	s.exports = p.Export
	if len(s.peers) == 0 {
		return nil
	}
	if err := s.server.ResetPeer(ctx,
		&api.ResetPeerRequest{Address: "all", Soft: true, Direction: api.ResetPeerRequest_DIRECTION_IN}); err != nil {
		return fmt.Errorf("judge received paths by the new rules: %w", err)
	}
	if exported {
		return nil
	}
	if err := s.server.ResetPeer(ctx,
		&api.ResetPeerRequest{Address: "all", Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT}); err != nil {
		return fmt.Errorf("send what the new rules let out: %w", err)
	}
	return nil
}

// statementOf is a statement in GoBGP's words; the set of prefixes that it takes is added
// to req.
func statementOf(req *api.SetPoliciesRequest, policy string, i int, st bgp.Statement) *api.Statement {
	name := fmt.Sprintf("%d-%s", i, st.Name)
	c := &api.Conditions{}
	if st.Prefix.IsValid() {
		req.DefinedSets = append(req.DefinedSets, &api.DefinedSet{
			DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: policy + "-" + name,
			Prefixes: []*api.Prefix{{
				IpPrefix: st.Prefix.String(), MaskLengthMin: uint32(st.MinBits), MaskLengthMax: uint32(st.MaxBits),
			}},
		})
		c.PrefixSet = &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: policy + "-" + name}
	}
	for _, h := range st.NextHops {
		c.NextHopInList = append(c.NextHopInList, h.String())
	}
	if st.Local {
		c.RouteType = api.Conditions_ROUTE_TYPE_LOCAL
	}
	action := api.RouteAction_ROUTE_ACTION_ACCEPT
	if st.Action == bgp.Reject {
		action = api.RouteAction_ROUTE_ACTION_REJECT
	}
	return &api.Statement{Name: policy + "-" + name, Conditions: c, Actions: &api.Actions{RouteAction: action}}
}
