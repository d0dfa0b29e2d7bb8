package agent

import (
	"reflect"

	"github.com/manx-cni/manx/bgp/speaker"
	"github.com/manx-cni/manx/internal/datastore"
)

// toldSpeaker is what the speaker was told last, and what that was computed from. Most turns
// of the steering are about something else, learned paths above all, and the computation goes
// through all nodes and selectors.
type toldSpeaker struct {
	snapshot *datastore.Snapshot // which is the same one while nothing in the API changes
	addrs    addressing
	desired  speaker.Desired
}

// again is what the speaker was told, if it would be the same.
func (t toldSpeaker) again(s *datastore.Snapshot, addrs addressing) (speaker.Desired, bool) {
	if s != t.snapshot || !reflect.DeepEqual(addrs, t.addrs) {
		return speaker.Desired{}, false
	}
	return t.desired, true
}
