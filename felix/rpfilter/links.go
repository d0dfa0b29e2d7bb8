package rpfilter

import (
	"errors"

	"github.com/manx-cni/manx/felix/former"
	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
)

// keep looks after the links of wanted tunnels.
func (d *Driver) keep() {
	tunnels, ok := d.there()
	if !ok {
		return
	}
	if len(tunnels) == 0 {
		d.loose = false
		return
	}
	all, err := d.cfg.Kernel.RPFilterAll()
	if err != nil {
		d.fail(tunnels[0].Name, err)
		return // nothing is changed without knowing what is in force
	}
	loose := true
	for _, link := range tunnels {
		loose = d.loosen(link, all) && loose
	}
	d.loose = d.loosenUplink(all) && loose
}

// there finds the wanted devices, those of them that there are.
func (d *Driver) there() ([]nl.Link, bool) {
	var out []nl.Link
	for _, t := range d.wanted {
		link, err := d.cfg.Kernel.LinkByName(t.Name)
		switch {
		case errors.Is(err, nl.ErrNotFound):
		case err != nil:
			d.fail(t.Name, err)
			return nil, false
		case link.Kind == t.Kind:
			out = append(out, link)
		}
	}
	return out, true
}

// loosen makes a strict rp_filter loose; all is that of conf/all. What is strict now is as
// another program wants it, whatever the memory has of it.
func (d *Driver) loosen(link nl.Link, all int) bool {
	d.status.Desired++
	if max(all, link.RPFilter) == nl.RPFilterStrict {
		was := d.cfg.Memory.Of(link.Name, link.Index)
		was.RPFilter = &link.RPFilter
		d.cfg.Memory.Remember(was)
		if !d.done(link.Name, "make rp_filter loose", d.cfg.Kernel.LinkSetRPFilter(link.Index, nl.RPFilterLoose)) {
			return false
		}
		d.cfg.Log.Info("strict rp_filter made loose for the tunnel", "dev", link.Name)
	}
	d.status.InKernel++
	return true
}

// loosenUplink looks after the uplink, and lets go of a former one and of tunnels that are
// gone. An uplink that is not known for the moment is still the last one.
func (d *Driver) loosenUplink(all int) bool {
	if d.uplink == "" {
		return true
	}
	kept := map[string]bool{d.uplink: true}
	for _, tunnels := range [][]state.LinkSpec{d.wanted, d.leaving} {
		for _, t := range tunnels {
			kept[t.Name] = true
		}
	}
	ok := d.putBack(kept)
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

// putBack gives the links that were made loose, by whichever process, what they had, except
// those to keep and those that are no longer loose.
func (d *Driver) putBack(kept map[string]bool) bool {
	ok := true
	for _, was := range d.cfg.Memory.All() {
		if was.RPFilter == nil || kept[was.Name] {
			continue
		}
		link, err := d.cfg.Kernel.LinkByName(was.Name)
		if err != nil && !errors.Is(err, nl.ErrNotFound) {
			d.fail(was.Name, err)
			ok = false
			continue
		}
		if err == nil && link.Index == was.Index && link.RPFilter == nl.RPFilterLoose {
			if !d.done(was.Name, "put rp_filter back", d.cfg.Kernel.LinkSetRPFilter(link.Index, *was.RPFilter)) {
				ok = false
				continue
			}
			d.cfg.Log.Info("rp_filter put back", "dev", was.Name, "mode", *was.RPFilter)
		}
		d.cfg.Memory.Forget(was.Name, func(l *former.Link) { l.RPFilter = nil })
	}
	return ok
}
