package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manx-cni/manx/ipam"
	"github.com/manx-cni/manx/ipam/store"
	"github.com/manx-cni/manx/ipam/store/fake"
)

// The steering loop asks an API server that refuses less and less often, though it looks
// four times a second, and is back within half a minute.
func TestFirstSyncBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fake.Backend{}
		b.SetHook(func(context.Context, fake.Op) (before, after error) { return errors.New("refused"), nil })
		a := &Agent{ipam: ipam.New(ipam.Config{Node: "n1", Store: store.New(b)})}
		retry := newSyncRetry()
		look := func(during time.Duration) (synced bool, requests int) {
			for range during / startEvery {
				if a.trySync(t.Context(), retry) {
					synced = true
					break
				}
				time.Sleep(startEvery) //nolint:forbidigo // the bubble's clock
			}
			return synced, len(b.TakeOps())
		}
		if synced, n := look(10 * time.Minute); synced || n < 5 || n > 60 {
			t.Errorf("synced %t, %d requests in ten minutes; want 5 to 60", synced, n)
		}
		if len(a.errors.list()) == 0 {
			t.Error("nothing is said of the failures")
		}
		b.SetHook(nil)
		if synced, _ := look(syncTimeout + startEvery); !synced {
			t.Errorf("not synced %s after the server is back", syncTimeout)
		}
	})
}
