package gobgp_test

import (
	"slices"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/manx-cni/manx/bgp"
)

// TestOthersUntouched: a filter that changes for one session has that peer told again, and no
// other: the next thing that the other one hears is the change that is about it.
func TestOthersUntouched(t *testing.T) {
	t.Parallel()
	f := newFabric(t, "a", "x", "y")
	base := func(x, y uint32) spec {
		s := f.withRouter("a", "x", bgp.PeerConfig{Filters: []string{"x"}})
		delete(s.Nodes, "y")
		second := s.Peers[0]
		second.Name, second.Router.Addr, second.Filters = "y", f.addr("y"), []string{"y"}
		s.Peers = append(s.Peers, second)
		filter := func(n uint32) bgp.Filter {
			return bgp.Filter{Export: []bgp.FilterRule{{Statement: bgp.Statement{
				Prefix: testPool, MinBits: 16, MaxBits: 32, Set: bgp.Set{Communities: []bgp.Community{{Global: 64512, Local1: n}}},
			}}}}
		}
		s.Filters = map[string]bgp.Filter{"x": filter(x), "y": filter(y)}
		return s
	}
	a := f.start(base(1, 1))
	peers := map[string]*rawPeer{}
	for _, name := range []string{"x", "y"} {
		peers[name] = f.peer(name, "a", routerAS, capabilities(routerAS, false))
	}
	told := func(name string) (communities []uint32) {
		updates, _, _ := peers[name].heard()
		for _, u := range updates {
			if !slices.ContainsFunc(u.NLRI, func(n gobgp.PathNLRI) bool { return n.NLRI.String() == f.block("a").String() }) {
				continue
			}
			for _, attr := range u.PathAttributes {
				if c, ok := attr.(*gobgp.PathAttributeCommunities); ok {
					for _, v := range c.Value {
						communities = append(communities, v&0xffff)
					}
				}
			}
		}
		return communities
	}
	hears := func(name string, want ...uint32) {
		t.Helper()
		wait(t, 20*time.Second, name+" hears of our block", func() bool { return slices.Equal(told(name), want) })
	}
	hears("x", 1)
	hears("y", 1)
	a.set(base(2, 1))
	hears("x", 1, 2)
	a.set(base(3, 1))
	hears("x", 1, 2, 3)
	a.set(base(3, 9))
	hears("y", 1, 9)
	if got := told("x"); !slices.Equal(got, []uint32{1, 2, 3}) {
		t.Errorf("x was told of what is y's: %v", got)
	}
}
