package felix

import (
	"testing"

	"github.com/manx-cni/manx/felix/nl/nltest"
)

// TestPodSourcesAreChecked: the source check of a pod that an older plugin made is
// turned on, and again after another program has turned it off.
func TestPodSourcesAreChecked(t *testing.T) {
	n := newNode(t)
	const iface = "cali0123456789a"
	n.pod(iface, "c1", "10.244.0.5")
	_, late := n.pod("cali0123456789b", "c2", "10.244.0.6")
	mode := func(iface string) string { return nltest.Run(t, "sysctl", "-n", "net.ipv4.conf."+iface+".rp_filter") }
	if mode(iface) != "0" {
		t.Fatal("it is on already: the test says nothing")
	}
	d, _ := n.start(nil)
	d.SetState(n.input())
	ready(t, d)
	if got := mode(iface); got != "1" {
		t.Errorf("rp_filter of a pod that ran before is %s, want 1", got)
	}
	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf."+iface+".rp_filter=0")
	nltest.Eventually(t, "rp_filter is on again", func() bool { return mode(iface) == "1" })

	nltest.Run(t, "sysctl", "-qw", "net.ipv4.conf."+late.Iface+".rp_filter=0")
	if err := d.AddEndpoint(t.Context(), late); err != nil || mode(late.Iface) != "1" {
		t.Errorf("a pod that is added: %v, rp_filter %s", err, mode(late.Iface))
	}
}
