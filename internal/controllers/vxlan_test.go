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
	if g := got[0]; g.reason != v1.PoolEncapsulation ||
		!strings.Contains(g.text, "asks for VXLAN (vxlanMode Always), which this version of Manx does not carry") || g.use.Addresses != 3 {
		t.Errorf("%s %q %+v", g.reason, g.text, g.use)
	}
	if g := got[1]; g.reason != v1.PoolDisabled {
		t.Errorf("disabled as well: %s", g.reason)
	}
	conditions := got[0].status(metav1.Now()).Conditions
	c := conditions[0]
	if c.Type != v1.ConditionPoolReady || c.Status != metav1.ConditionFalse {
		t.Errorf("%+v", c)
	}
	if len(conditions) != 2 || conditions[1].Type != v1.ConditionPoolSettings || conditions[1].Reason != v1.ReasonSettingRefused ||
		!strings.HasPrefix(conditions[1].Message, "spec.vxlanMode=Always: this version of Manx does not carry VXLAN") {
		t.Errorf("%+v", conditions)
	}
}

// The condition on settings comes, keeps its time while it says the same, and goes.
func TestPoolSettings(t *testing.T) {
	first, later := metav1.Unix(1000, 0), metav1.Unix(2000, 0)
	legacy := aPool("a", "10.0.0.0/16", func(p *v1.IPPool) { p.Spec.LegacyNATOutgoing = true })
	s := &v1.IPPoolStatus{Conditions: []metav1.Condition{{Type: v1.ConditionPoolReady}}}
	settleSettings(s, legacy, first)
	settleSettings(s, legacy, later)
	if len(s.Conditions) != 2 || s.Conditions[1].LastTransitionTime != first || s.Conditions[1].Reason != v1.ReasonSettingWithoutEffect ||
		s.Conditions[1].Message != "spec.nat-outgoing=true: a field of Calico's first API; use natOutgoing" {
		t.Errorf("%+v", s.Conditions)
	}
	settleSettings(s, aPool("a", "10.0.0.0/16"), later)
	if len(s.Conditions) != 1 || s.Conditions[0].Type != v1.ConditionPoolReady {
		t.Errorf("after it is unset: %+v", s.Conditions)
	}
}
