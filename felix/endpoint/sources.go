package endpoint

import (
	"errors"
	"fmt"
	"strings"

	"github.com/manx-cni/manx/felix/nl"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/attachment"
)

// checkSources has the kernel take a pod's packets and ARP requests only when the route
// back to their sender leads to the pod. On a device without an IPv4 address, as pods'
// are, every mode of rp_filter but 0 means that (fib_validate_source: what does not come
// back by the device itself is refused before loose is asked for), whatever conf/all has;
// a distribution's 2 is left as it is. Without it the kernel learns a neighbour from
// every ARP request (arp_process), whoever its sender is said to be.
func (d *Driver) checkSources(l nl.Link) (changed bool, err error) {
	if l.RPFilter != 0 {
		return false, nil
	}
	err = d.cfg.Kernel.LinkSetRPFilter(l.Index, nl.RPFilterStrict)
	if errors.Is(err, nl.ErrNotFound) {
		return false, nil // its pod has ended
	}
	if err != nil {
		return false, fmt.Errorf("turn the source check of pod interface %s on: %w", l.Name, err)
	}
	return true, nil
}

// checkAllSources does it for the links that are ours. A failure holds up nothing else;
// the next reading tries again.
func (d *Driver) checkAllSources(links []nl.Link) {
	changed := 0
	failed := map[string]string{}
	for _, l := range links {
		if !isOurs(l) {
			continue
		}
		did, err := d.checkSources(l)
		if err != nil {
			failed[l.Name] = err.Error()
		}
		if did {
			changed++
		}
	}
	if changed > 0 {
		d.cfg.Log.Info("source check of pod interfaces turned on", "rp_filter", nl.RPFilterStrict, "interfaces", changed)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, msg := range failed {
		if d.unchecked[name] != msg {
			d.cfg.Log.Warn("a pod may fill the node's neighbour table", "iface", name, "err", msg)
		}
	}
	d.unchecked = failed
}

// RPFilterSet takes in that the rp_filter of some links, by index, was set: by udev,
// which applies sysctl.d to new devices, or by anybody.
func (d *Driver) RPFilterSet(indexes map[int]bool) {
	for _, name := range d.names(indexes) {
		l, err := d.cfg.Kernel.LinkByName(name)
		if err != nil || !isOurs(l) {
			continue // gone, or about to be read back
		}
		changed, err := d.checkSources(l)
		switch {
		case err != nil:
			d.cfg.Log.Warn("a pod may fill the node's neighbour table until the next look", "iface", name, "err", err)
		case changed:
			d.cfg.Log.Info("source check of a pod interface was turned off; on again", "iface", name, "rp_filter", nl.RPFilterStrict)
		}
	}
}

func (d *Driver) names(indexes map[int]bool) (out []string) {
	if len(indexes) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, e := range d.endpoints {
		if indexes[e.index] {
			out = append(out, name)
		}
	}
	return out
}

func isOurs(l nl.Link) bool {
	_, ours := attachment.ParseAlias(l.Alias)
	return ours && strings.HasPrefix(l.Name, state.InterfacePrefix)
}
