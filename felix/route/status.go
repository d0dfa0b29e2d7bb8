package route

import (
	"fmt"
	"maps"
	"slices"

	"github.com/manx-cni/manx/felix/state"
)

// maxConditions bounds how many single routes are reported; beyond it they are
// counted.
const maxConditions = 8

// settle drops failures of keys that nothing is pending for any longer, and
// counts what is pending.
func (d *Driver) settle() {
	pending, held := 0, 0
	for k := range d.routes.EachUpdate() {
		if d.foreign[k] == "" {
			pending++
		}
	}
	for _, have := range d.routes.EachDelete() {
		if d.held(have) {
			held++
		} else {
			pending++
		}
	}
	for k := range d.refused {
		want, wanted := d.routes.Desired(k)
		have, exists := d.routes.Actual(k)
		if d.foreign[k] != "" || wanted == exists && (!wanted || have == want) {
			delete(d.refused, k)
		}
	}
	for k := range d.foreign {
		if _, wanted := d.routes.Desired(k); !wanted {
			delete(d.foreign, k)
		}
	}
	d.status.Desired, d.status.InKernel = d.routes.DesiredLen(), d.routes.Agreed()
	d.status.Pending, d.status.Held = pending, held
	d.status.Failed, d.status.Foreign = len(d.refused), len(d.foreign)
}

// summary is the error of an Apply that could not do everything.
func (d *Driver) summary() error {
	d.settle()
	if len(d.refused) == 0 {
		return nil
	}
	first := slices.SortedFunc(maps.Keys(d.refused), state.CompareRouteKeys)[0]
	return fmt.Errorf("%d routes failed, the first: %w", len(d.refused), d.refused[first])
}

// Status reports how the driver is doing.
func (d *Driver) Status() state.DriverStatus {
	d.settle()
	return d.status
}

// Conditions names the routes that are not as they should be, and why.
func (d *Driver) Conditions() []state.Condition {
	var out []state.Condition
	out = list(out, state.ForeignRoute, d.foreign, func(what string) string {
		return fmt.Sprintf("the node has a route that is not Manx's (%s); it stays, ours is not written: remove it with ip route del", what)
	})
	return list(out, state.RouteFailed, d.refused, error.Error)
}

func list[V any](out []state.Condition, kind state.ConditionKind, m map[state.RouteKey]V, message func(V) string) []state.Condition {
	for i, k := range slices.SortedFunc(maps.Keys(m), state.CompareRouteKeys) {
		if i == maxConditions {
			return append(out, state.Condition{Kind: kind, Subject: fmt.Sprintf("%d more", len(m)-i), Message: "see the first ones"})
		}
		out = append(out, state.Condition{Kind: kind, Subject: k.Dst.String(), Message: message(m[k])})
	}
	return out
}

// Uninstall removes every route that carries our protocol number.
func (d *Driver) Uninstall() error {
	d.routes.ReplaceDesired(nil)
	d.converged = [2]bool{true, true}
	if err := d.readKernel(); err != nil {
		return fmt.Errorf("read routes back: %w", err)
	}
	d.write(d.planDeletes(d.routes.Deletes()))
	return d.summary()
}

// Installed are the first n of our routes in the kernel that keep accepts, by destination, as
// of the last look, and how many more there are.
func (d *Driver) Installed(n int, keep func(state.Route) bool) (out []state.Route, more int) {
	count := 0
	for _, r := range d.routes.AllActual() {
		if !keep(r) {
			continue
		}
		count++
		if out = append(out, r); len(out) >= 2*n+1024 { // never all of a big table
			out = firstRoutes(out, n)
		}
	}
	out = firstRoutes(out, n)
	return out, count - len(out)
}

func firstRoutes(routes []state.Route, n int) []state.Route {
	slices.SortFunc(routes, func(a, b state.Route) int { return state.CompareRouteKeys(a.Key(), b.Key()) })
	return routes[:min(len(routes), n)]
}
