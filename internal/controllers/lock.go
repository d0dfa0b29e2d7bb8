package controllers

import (
	"sync/atomic"

	v1 "github.com/manx-cni/manx/api/v1"
)

// lockedOf says whether a ClusterInformation locks the datastore.
func lockedOf(o *v1.ClusterInformation) (bool, error) { return o.Locked(), nil }

// locked reports whether the datastore is locked (datastoreReady false): nothing is
// released or deleted then, because what is absent may be on its way.
func (w *watch) locked() bool {
	o, found, err := w.informers[kindInformation].GetStore().GetByKey(v1.DefaultName)
	k, ok := o.(*kept[bool])
	return err == nil && found && ok && k.err == nil && k.value
}

// lockChanged returns what is told of a change of a ClusterInformation. When the lock
// goes, everything that was seen before counts no more: it begins a new epoch, so that
// each thing must look unused for the whole grace period again.
func (w *watch) lockChanged(changed func()) func() {
	var was atomic.Bool
	return func() {
		if now := w.locked(); was.Swap(now) != now {
			w.epoch.bump()
			changed()
		}
	}
}
