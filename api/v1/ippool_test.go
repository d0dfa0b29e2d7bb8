package v1_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/manx-cni/manx/api/v1"
)

func TestIPPoolValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		spec v1.IPPoolSpec
		want []string // in the error, one per problem
	}{
		{"plain", v1.IPPoolSpec{CIDR: "10.244.0.0/16"}, nil},
		{"everything", v1.IPPoolSpec{CIDR: "10.244.0.0/16", IPIPMode: v1.EncapCrossSubnet, VXLANMode: v1.EncapNever, BlockSize: 20,
			AllowedUses:    []v1.IPPoolAllowedUse{v1.UseTunnel, v1.UseWorkload, v1.UseLoadBalancer},
			AssignmentMode: v1.AssignManual, NodeSelector: "x"}, nil},
		{"one block", v1.IPPoolSpec{CIDR: "10.244.0.0/26"}, nil},
		{"IPv6", v1.IPPoolSpec{CIDR: "fd00::/48", VXLANMode: v1.EncapAlways, BlockSize: 128}, nil},
		{"no cidr", v1.IPPoolSpec{}, []string{`spec.cidr ""`}},
		{"host bits", v1.IPPoolSpec{CIDR: "10.244.0.1/16"}, []string{"want 10.244.0.0/16"}},
		{"mapped", v1.IPPoolSpec{CIDR: "::ffff:10.0.0.0/112"}, []string{"write the IPv4 range"}},
		{"smaller than a block", v1.IPPoolSpec{CIDR: "10.244.0.0/27"},
			[]string{"spec.blockSize 26: a block must fit in the pool 10.244.0.0/27; want 27 to 32"}},
		{"blocks too large", v1.IPPoolSpec{CIDR: "10.0.0.0/8", BlockSize: 19}, []string{"want 20 to 32"}},
		{"blocks of the other family", v1.IPPoolSpec{CIDR: "fd00::/48", BlockSize: 26}, []string{"want 116 to 128"}},
		{"both encapsulations", v1.IPPoolSpec{CIDR: "10.0.0.0/16", IPIPMode: v1.EncapAlways, VXLANMode: v1.EncapCrossSubnet},
			[]string{"only one encapsulation"}},
		{"IPIP for IPv6", v1.IPPoolSpec{CIDR: "fd00::/48", IPIPMode: v1.EncapAlways}, []string{"IPIP carries IPv4 only"}},
		{"multicast", v1.IPPoolSpec{CIDR: "224.0.0.0/16"}, []string{"cannot be assigned"}},
		{"all at once", v1.IPPoolSpec{
			CIDR: "x", IPIPMode: "always", VXLANMode: "on", AssignmentMode: "auto", AllowedUses: []v1.IPPoolAllowedUse{v1.UseTunnel, "Pods"},
		}, []string{
			`spec.ipipMode "always": want one of Never, Always, CrossSubnet`, `spec.vxlanMode "on"`,
			`spec.assignmentMode "auto": want one of Automatic, Manual`, `spec.allowedUses[1] "Pods"`, "only one encapsulation", `spec.cidr "x"`,
		}},
	} {
		err := (&v1.IPPool{Spec: c.spec}).Validate()
		if len(c.want) == 0 {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: valid, want %q", c.name, c.want)
			continue
		}
		if got := strings.Count(err.Error(), "\n") + 1; got != len(c.want) {
			t.Errorf("%s: %d problems, want %d:\n%v", c.name, got, len(c.want), err)
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v\ndoes not say %q", c.name, err, w)
			}
		}
	}
}

func TestIPPoolDefaults(t *testing.T) {
	four, six := &v1.IPPool{Spec: v1.IPPoolSpec{CIDR: "10.0.0.0/16"}}, &v1.IPPool{Spec: v1.IPPoolSpec{CIDR: "fd00::/48"}}
	if four.BlockBits() != 26 || six.BlockBits() != 122 {
		t.Errorf("block sizes %d and %d, want 26 and 122", four.BlockBits(), six.BlockBits())
	}
	if !four.Allows(v1.UseWorkload) || !four.Allows(v1.UseTunnel) || four.Allows(v1.UseLoadBalancer) {
		t.Error("a pool that names no uses allows Workload and Tunnel")
	}
	if s := (v1.IPAMConfigSpec{}); s.BlockLimit() != 20 {
		t.Errorf("block limit %d, want 20", s.BlockLimit())
	}
}

func TestOverlaps(t *testing.T) {
	pool := func(name, cidr string, created int64) *v1.IPPool {
		return &v1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(created, 0)}, Spec: v1.IPPoolSpec{CIDR: cidr}}
	}
	old, twin, young := pool("m", "10.0.0.0/16", 1), pool("n", "10.0.0.0/15", 1), pool("a", "10.0.1.0/24", 2)
	// What an ignored pool has is free for another.
	other, bad := pool("b", "10.1.0.0/16", 3), pool("c", "banana", 0)
	got := v1.Overlaps([]*v1.IPPool{young, other, bad, twin, old})
	if len(got) != 2 || got[young] != old || got[twin] != old {
		t.Errorf("%v", got)
	}
}
