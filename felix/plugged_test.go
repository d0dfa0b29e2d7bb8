package felix

import (
	"net/netip"
	"testing"
	"time"

	"github.com/manx-cni/manx/cni-plugin/veth"
	"github.com/manx-cni/manx/felix/nl/nltest"
	"github.com/manx-cni/manx/felix/state"
)

// What the plugin leaves of a pod's interface is what linkWants wants of it: else every
// pod would be "mended" once, and be reported.
func TestPluginLeavesWhatIsWanted(t *testing.T) {
	four, six := netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00:10:244::7")
	for name, addrs := range map[string][]netip.Addr{"IPv4": {four}, "IPv6": {six}, "both": {four, six}} {
		t.Run(name, func(t *testing.T) {
			n := newDualNode(t)
			ns := nltest.NewNS(t)
			ep := state.Endpoint{Iface: "cali0123456789d", Network: "k8s-pod-network", ContainerID: "c7", Addrs: addrs}
			pair, err := veth.Create(veth.Config{
				HostIface: ep.Iface, IfName: "eth0", NetNS: "/run/netns/" + string(ns), Alias: ep.Alias(), OwnPrefix: "manx:", MTU: 1400,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer pair.Close()
			if err := pair.Configure(veth.Settings{Addrs: addrs}); err != nil {
				t.Fatal(err)
			}
			n.mu.Lock()
			n.handles[ep.Handle()] = ep.Addrs
			n.mu.Unlock()
			d, _ := n.start(func(c *Config) { c.Refresh = 100 * time.Millisecond })
			in := n.input()
			in.Node.IPv6 = netip.MustParsePrefix(nodeAddr6)
			d.SetState(in)
			ready(t, d)
			nltest.Eventually(t, "it has been looked at three times", func() bool { return d.Status().Driver("settings").Resyncs >= 3 })
			if s := d.Status().Driver("settings"); s.Writes != 0 || s.Errors != 0 || s.Pending != 0 || s.Desired < 5 {
				t.Errorf("%+v, %+v", s, d.Status().Conditions)
			}
		})
	}
}
