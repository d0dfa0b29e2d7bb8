package route

import (
	"errors"
	"fmt"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// AddNow makes routes on one interface desired and writes them at once, without
// waiting for the next Apply. It needs the kernel to have been read back. What
// it cannot write stays pending.
func (d *Driver) AddNow(link nl.Link, routes []state.Route) error {
	if !d.readBack {
		return errors.New("routes have not been read back yet")
	}
	d.links[link.Name] = link.Index
	keys := make([]state.RouteKey, 0, len(routes))
	for _, r := range routes {
		keys = append(keys, r.Key())
		d.routes.SetDesired(r.Key(), r)
	}
	d.write(d.planUpdates(keys))
	if d.resync && d.anyRefused(keys) {
		// Refused because something is there that we did not know of.
		if err := d.readKernel(); err != nil {
			return fmt.Errorf("read routes back: %w", err)
		}
		d.write(d.planUpdates(keys))
	}
	var errs []error
	for _, k := range keys {
		want, _ := d.routes.Desired(k)
		if have, ok := d.routes.Actual(k); ok && have == want {
			continue
		}
		switch {
		case d.foreign[k] != "":
			errs = append(errs, fmt.Errorf("program route %s: there is a route that is not ours: %s; remove it", want, d.foreign[k]))
		case d.refused[k] != nil:
			errs = append(errs, d.refused[k])
		default:
			errs = append(errs, fmt.Errorf("program route %s: still pending", want))
		}
	}
	return errors.Join(errs...)
}

func (d *Driver) anyRefused(keys []state.RouteKey) bool {
	for _, k := range keys {
		if d.refused[k] != nil {
			return true
		}
	}
	return false
}

// RemoveNow makes routes not desired any longer and removes them at once. A
// destination that is on another interface by now is left alone. What it cannot
// remove stays pending.
func (d *Driver) RemoveNow(routes []state.Route) error {
	d.Unwant(routes)
	var keys []state.RouteKey
	for _, r := range routes {
		if have, ok := d.routes.Actual(r.Key()); ok && have.Dev == r.Dev {
			keys = append(keys, r.Key())
		}
	}
	d.write(d.planDeletes(keys))
	var errs []error
	for _, k := range keys {
		if _, still := d.routes.Actual(k); still {
			errs = append(errs, d.refused[k])
		}
	}
	return errors.Join(errs...)
}

// Want makes routes desired without writing them. It returns false, and changes
// nothing, when one of them contradicts a route that is desired already.
func (d *Driver) Want(routes []state.Route) bool {
	for _, r := range routes {
		if want, ok := d.routes.Desired(r.Key()); ok && want != r {
			return false
		}
	}
	for _, r := range routes {
		d.routes.SetDesired(r.Key(), r)
	}
	return true
}

// Unwant makes routes not desired any longer, without removing them. A
// destination that is wanted on another interface is left alone.
func (d *Driver) Unwant(routes []state.Route) {
	for _, r := range routes {
		if want, ok := d.routes.Desired(r.Key()); ok && want.Dev == r.Dev {
			d.routes.DeleteDesired(r.Key())
		}
	}
}

// Has reports whether a route is in the kernel as far as the driver knows.
func (d *Driver) Has(r state.Route) bool {
	have, ok := d.routes.Actual(r.Key())
	return ok && have == r
}
