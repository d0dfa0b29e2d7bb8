package agent

import (
	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
	"github.com/manx-cni/manx/ipam/store"
)

// locked reports whether the datastore is locked (datastoreReady false): nothing is
// assigned or released then.
func (a *Agent) locked() bool {
	s := a.snapshot.Load()
	return s != nil && s.Locked
}

// heed returns the snapshot to act on. While the datastore is locked that is the one
// before, so that what is absent in a migration is not taken for gone: no route is
// withdrawn, no session ended, no mode changed. An agent that starts meanwhile acts on
// what it finds first, since its peers keep its paths for two minutes only. unlocked
// reports that the lock has just gone.
func (a *Agent) heed(now *datastore.Snapshot) (s *datastore.Snapshot, unlocked bool) {
	before := a.snapshot.Load()
	switch was := before != nil && before.Locked; {
	case !now.Locked:
		if was {
			a.log.Info("datastoreReady is true again: addresses are assigned and released, and routes follow")
		}
		return now, was
	case was:
		return before, false
	}
	a.log.Warn("datastoreReady of ClusterInformation default is false: " +
		"nothing is assigned or released and no route is changed until it is true again")
	if before == nil {
		return now, false
	}
	frozen := *before
	frozen.Locked = true
	return &frozen, false
}

// lockCondition says in status that the datastore is locked.
func lockCondition(s *datastore.Snapshot) []state.Condition {
	if !s.Locked {
		return nil
	}
	return []state.Condition{{
		Kind: state.DatastoreLocked, Subject: "ClusterInformation/" + apiv1.DefaultName,
		Message: "spec.datastoreReady=false: " +
			"a migration is under way, or was left unfinished: nothing is assigned or released and no route is changed " +
			"until it is true again (calicoctl datastore migrate unlock)",
	}}
}

// unlocked is why a request that assigns or releases is refused for now; the runtime
// tries again by itself.
func (p *podAPI) unlocked() error {
	if p.locked == nil || !p.locked() {
		return nil
	}
	return nodeapi.Errorf(nodeapi.CodeTryAgain, "%v", store.ErrLocked)
}
