package gobgp

import (
	"context"
	"fmt"
	"net/netip"
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

// SetPolicies replaces both policies in one step, then has the peers judged again that this
// is about. Global import policy meets our own paths too, which is why the first statement
// lets local ones through.
func (s *Speaker) SetPolicies(ctx context.Context, p bgp.Policy) error {
	c := &compiler{direction: importPolicy}
	imports := []*api.Statement{{
		Name:       "import-local",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}
	for i, st := range p.Import {
		// A statement without next hops would match every next hop.
		if len(st.NextHops) > 0 || st.AnyNextHop {
			imports = append(imports, c.statements(i, st)...)
		}
	}
	c.direction = exportPolicy
	var exports []*api.Statement
	for i, st := range p.Export {
		exports = append(exports, c.statements(i, st)...)
	}
	req := &api.SetPoliciesRequest{
		DefinedSets: c.sets,
		Policies:    []*api.Policy{{Name: importPolicy, Statements: imports}, {Name: exportPolicy, Statements: exports}},
	}
	if err := s.server.SetPolicies(ctx, req); err != nil {
		return err
	}
	return s.rejudge(ctx, p)
}

// compiler puts statements into GoBGP's words.
type compiler struct {
	direction string
	sets      []*api.DefinedSet // that the statements refer to
}

// statements are what a statement comes to. GoBGP prepends one AS number a statement, and
// knows no condition "learned": those that take several statements have the others first,
// which change the path and do not decide.
func (c *compiler) statements(i int, st bgp.Statement) (out []*api.Statement) {
	types := []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_UNSPECIFIED}
	switch {
	case st.Local:
		types = []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_LOCAL}
	case st.Learned:
		types = []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_INTERNAL, api.Conditions_ROUTE_TYPE_EXTERNAL}
	}
	for _, routeType := range types {
		st := st
		name := fmt.Sprintf("%s-%d-%s-%d", c.direction, i, st.Name, routeType)
		for n := len(st.Set.Prepend) - 1; n > 0; n-- { // the last one first
			prepend := &api.Statement{Name: fmt.Sprintf("%s-prepend-%d", name, n), Actions: prependOf(st.Set.Prepend[n])}
			prepend.Conditions = c.conditions(prepend.Name, st, routeType)
			out = append(out, prepend)
			if len(st.Attributes.ASPathPrefix) > 0 { // which is longer now
				st.Attributes.ASPathPrefix = slices.Concat(st.Set.Prepend[n:n+1], st.Attributes.ASPathPrefix)
			}
		}
		out = append(out, &api.Statement{Name: name, Conditions: c.conditions(name, st, routeType), Actions: actionsOf(st)})
	}
	return out
}

// conditions are the statement's; the sets that they name are defined under that name.
func (c *compiler) conditions(name string, st bgp.Statement, routeType api.Conditions_RouteType) *api.Conditions {
	out := &api.Conditions{RouteType: routeType}
	define := func(kind api.DefinedType, match api.MatchSet_Type, set *api.DefinedSet) *api.MatchSet {
		set.DefinedType, set.Name = kind, name
		c.sets = append(c.sets, set)
		return &api.MatchSet{Type: match, Name: name}
	}
	if st.Prefix.IsValid() {
		match := api.MatchSet_TYPE_ANY
		if st.Outside {
			match = api.MatchSet_TYPE_INVERT
		}
		out.PrefixSet = define(api.DefinedType_DEFINED_TYPE_PREFIX, match, &api.DefinedSet{Prefixes: []*api.Prefix{{
			IpPrefix: st.Prefix.String(), MaskLengthMin: uint32(st.MinBits), MaskLengthMax: uint32(st.MaxBits),
		}}})
	}
	if st.Peers != nil {
		set := &api.DefinedSet{}
		for _, p := range st.Peers {
			set.List = append(set.List, netip.PrefixFrom(p, p.BitLen()).String())
		}
		out.NeighborSet = define(api.DefinedType_DEFINED_TYPE_NEIGHBOR, api.MatchSet_TYPE_ANY, set)
	}
	if community := st.Attributes.Community; community != (bgp.Community{}) {
		set := &api.DefinedSet{List: []string{"^" + community.String() + "$"}}
		if community.Large {
			out.LargeCommunitySet = define(api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, api.MatchSet_TYPE_ANY, set)
		} else {
			out.CommunitySet = define(api.DefinedType_DEFINED_TYPE_COMMUNITY, api.MatchSet_TYPE_ANY, set)
		}
	}
	if path := st.Attributes.ASPathPrefix; len(path) > 0 {
		pattern := "^"
		for _, as := range path {
			pattern += fmt.Sprintf("%d_", as) // _ is the end of a number
		}
		out.AsPathSet = define(api.DefinedType_DEFINED_TYPE_AS_PATH, api.MatchSet_TYPE_ANY, &api.DefinedSet{List: []string{pattern}})
	}
	if st.Attributes.LocalPref > 0 {
		out.LocalPrefEq = &api.LocalPrefEq{Value: st.Attributes.LocalPref}
	}
	if !st.AnyNextHop {
		for _, h := range st.NextHops {
			out.NextHopInList = append(out.NextHopInList, h.String())
		}
	}
	return out
}

// actionsOf are what the statement does, but for all AS numbers prepended after the first.
func actionsOf(st bgp.Statement) *api.Actions {
	if st.Action == bgp.Reject {
		return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT}
	}
	out := &api.Actions{}
	if len(st.Set.Prepend) > 0 {
		out = prependOf(st.Set.Prepend[0])
	}
	out.RouteAction = api.RouteAction_ROUTE_ACTION_ACCEPT
	if st.Set.LocalPref > 0 {
		out.LocalPref = &api.LocalPrefAction{Value: st.Set.LocalPref}
	}
	for _, c := range st.Set.Communities {
		action := &out.Community
		if c.Large {
			action = &out.LargeCommunity
		}
		if *action == nil {
			*action = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD}
		}
		(*action).Communities = append((*action).Communities, c.String())
	}
	switch st.Set.NextHop {
	case bgp.NextHopSelf:
		out.Nexthop = &api.NexthopAction{Self: true}
	case bgp.NextHopKeep:
		out.Nexthop = &api.NexthopAction{Unchanged: true}
	}
	return out
}

func prependOf(as uint32) *api.Actions {
	return &api.Actions{AsPrepend: &api.AsPrependAction{Asn: as, Repeat: 1}}
}
