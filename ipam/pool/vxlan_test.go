package pool_test

import (
	"strings"
	"testing"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/family"
	"github.com/manx-cni/manx/ipam/pool"
)

// Nothing is assigned from a pool whose packets would not travel as it asks for, whoever
// asks for it.
func TestVXLAN(t *testing.T) {
	pools := []*v1.IPPool{
		ipPool("plain", v1.IPPoolSpec{CIDR: "10.1.0.0/16", VXLANMode: v1.EncapNever}),
		ipPool("vxlan", v1.IPPoolSpec{CIDR: "10.2.0.0/16", VXLANMode: v1.EncapCrossSubnet}),
	}
	const why = "asks for VXLAN (vxlanMode CrossSubnet), which this version of Manx does not carry"
	selected, skipped, err := pool.Select(pools, pool.Query{Family: family.IPv4})
	if err != nil || len(selected) != 1 || selected[0].Name != "plain" || len(skipped) != 1 || !strings.Contains(skipped[0].Reason, why) {
		t.Errorf("selected %v, skipped %v, %v", selected, skipped, err)
	}
	if _, _, err := pool.Select(pools, pool.Query{Family: family.IPv4, Requested: []string{"vxlan"}}); err == nil ||
		!strings.Contains(err.Error(), why) {
		t.Errorf("requested: %v", err)
	}
}
