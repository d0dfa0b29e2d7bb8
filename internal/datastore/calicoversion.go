package datastore

import (
	"fmt"

	"github.com/manx-cni/manx/bgp/advertise"
)

// besideCalico is the LOCAL_PREF for a cluster in which Calico of that version runs as well,
// by spec.calicoVersion of the ClusterInformation, such as v3.32.1: since v3.32 its nodes
// send another one than all others. 0: no such version runs.
func besideCalico(version string) uint32 {
	var major, minor int
	if n, err := fmt.Sscanf(version, "v%d.%d", &major, &minor); n != 2 || err != nil || major < 3 || major == 3 && minor < 32 {
		return 0
	}
	return advertise.CalicoLocalPref
}
