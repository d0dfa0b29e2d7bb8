package agent

import (
	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
)

// poolConditions says what pools ask for that cuts their pods off.
func poolConditions(s *datastore.Snapshot) (out []state.Condition) {
	if s == nil {
		return nil
	}
	for _, p := range s.Pools {
		if p.Spec.DisableBGPExport {
			out = append(out, state.Condition{Kind: state.PoolNotExported, Subject: p.Name, Message: apiv1.NotExportedText(p)})
		}
	}
	return out
}
