package controllers

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam/gc"
)

// A pool in VXLAN is not ready, and keeps what is in use.
func TestPoolInVXLANIsNotReady(t *testing.T) {
	vxlan := func(p *v1.IPPool) { p.Spec.VXLANMode = v1.EncapAlways }
	got := judgePools([]*v1.IPPool{
		aPool("a", "10.0.0.0/16", vxlan),
		aPool("b", "10.1.0.0/16", vxlan, func(p *v1.IPPool) { p.Spec.Disabled = true }),
	}, []gc.Block{aBlock(t, "10.0.0.0/26", "n1", 3, "n1")}, nil)
	if g := got[0]; g.reason != v1.PoolEncapsulation || !strings.Contains(g.text, "asks for VXLAN (vxlanMode Always), which this version of Manx does not carry") || g.use.Addresses != 3 {
		t.Errorf("%s %q %+v", g.reason, g.text, g.use)
	}
	if g := got[1]; g.reason != v1.PoolDisabled {
		t.Errorf("disabled as well: %s", g.reason)
	}
	c := got[0].status(metav1.Now()).Conditions[0]
	if c.Type != v1.ConditionPoolReady || c.Status != metav1.ConditionFalse {
		t.Errorf("%+v", c)
	}
}
