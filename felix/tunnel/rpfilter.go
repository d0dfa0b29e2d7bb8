package tunnel

import (
	"errors"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
)

// loosen makes a strict rp_filter loose; all is that of conf/all. Loose is the
// least change: the greater of the two is in force, so that off cannot be had
// on one device only. What is strict now is as somebody else wants it, whatever the
// memory has of it.
func (d *Driver) loosen(link nl.Link, all int) bool {
	if max(all, link.RPFilter) != nl.RPFilterStrict {
		return true
	}
	was := d.cfg.Memory.Of(link.Name, link.Index)
	was.RPFilter = &link.RPFilter
	d.cfg.Memory.Remember(was)
	if !d.done(link.Name, "make rp_filter loose", d.cfg.Kernel.LinkSetRPFilter(link.Index, nl.RPFilterLoose)) {
		return false
	}
	d.cfg.Log.Info("strict rp_filter made loose for the tunnel", "dev", link.Name)
	return true
}

// loosenUplink looks after the uplink, and lets go of a former one. An uplink
// that is not known for the moment is still the last one.
func (d *Driver) loosenUplink(all int) bool {
	if d.uplink == "" {
		return true
	}
	ok := d.tighten(func(name string) bool { return name == d.link.Name || name == d.uplink })
	link, err := d.cfg.Kernel.LinkByName(d.uplink)
	switch {
	case errors.Is(err, nl.ErrNotFound):
		return ok // it has gone away; its successor will be told
	case err != nil:
		d.fail(d.uplink, err)
		return false
	}
	return d.loosen(link, all) && ok
}

func forgetRPFilter(f *former.Link) { f.RPFilter = nil }

// tighten puts the rp_filters back that were made loose, by whichever process, except
// those to keep and those that are no longer loose.
func (d *Driver) tighten(keep func(name string) bool) bool {
	ok := true
	for _, was := range d.cfg.Memory.All() {
		name := was.Name
		if was.RPFilter == nil || keep(name) {
			continue
		}
		link, err := d.cfg.Kernel.LinkByName(name)
		if err != nil && !errors.Is(err, nl.ErrNotFound) {
			d.fail(name, err)
			ok = false
			continue
		}
		if err == nil && link.Index == was.Index && link.RPFilter == nl.RPFilterLoose {
			if !d.done(name, "put rp_filter back", d.cfg.Kernel.LinkSetRPFilter(link.Index, *was.RPFilter)) {
				ok = false
				continue
			}
			d.cfg.Log.Info("rp_filter put back", "dev", name, "mode", *was.RPFilter)
		}
		d.cfg.Memory.Forget(name, forgetRPFilter)
	}
	return ok
}
