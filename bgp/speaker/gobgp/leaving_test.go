package gobgp_test

import (
	"testing"
	"time"

	"github.com/manx-cni/manx/bgp"
)

// TestLeavingPeerLeavesNothing: what a peer sends in the moment in which its session is
// taken away is not learned for good: GoBGP takes up an UPDATE that was on its way after the
// peer's other paths have gone.
func TestLeavingPeerLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "raw")
	for round := range 8 {
		s := f.spec("a")
		s.MaxPrefixes = 0
		a := f.start(s)
		p := f.peer("raw", "a", clusterAS, capabilities(clusterAS, true))
		p.announce(f.addr("raw"), f.block("raw"))
		p.endOfRIB()
		wait(t, 20*time.Second, "the block", func() bool { return a.has(f.block("raw"), f.addr("raw")) })
		var again [2][]byte
		for i := range again {
			again[i] = p.update(f.addr("raw"), uint32(100+i), f.block("raw"))
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					if _, err := p.conn.Write(again[i%2]); err != nil { // the session has ended
						return
					}
				}
			}
		}()
		s.MeshOff = true // and the node stays one
		a.set(s)
		wait(t, 20*time.Second, "no session", func() bool { return len(a.report().Sessions) == 0 })
		close(stop)
		<-stopped
		gone := func() bool { return len(a.report().Learned) == 0 }
		wait(t, 10*time.Second, "nothing of the peer that has left", gone)
		if x := a.report(); x.Error != "" || x.Sessions["raw"].State == bgp.Established {
			t.Errorf("round %d: %+v", round, x)
		}
		a.kill()
	}
}
