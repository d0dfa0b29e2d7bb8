package kubebuild

import (
	"slices"
	"strings"
	"testing"
)

func TestPick(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  string // or, with "!" in front, what the error says
	}{
		{nil, strings.Join(Programs(), ", ")},
		{FullLab, strings.Join(Programs(), ", ")},
		{ControlPlane, "etcd, kube-apiserver"},
		{LightLab, "etcd, kube-apiserver, kubectl, pause, agnhost"},
		{slices.Concat(LightLab, LightServices), "etcd, kube-apiserver, kube-controller-manager, kube-proxy, kubectl, pause, agnhost"},
		{NodePrograms, "kubelet, kube-proxy, pause, agnhost"},
		{[]string{"kubectl", "etcd", "kubectl"}, "etcd, kubectl"},
		{[]string{"etcd", "kubeadm"}, `!no program "kubeadm" to build; there are etcd, kube-apiserver, `},
		{[]string{""}, `!no program ""`},
	} {
		list, err := pick(c.names)
		wrong, fails := strings.CutPrefix(c.want, "!")
		switch {
		case fails && (err == nil || !strings.Contains(err.Error(), wrong)):
			t.Errorf("pick(%q): error %v, want one with %q", c.names, err, wrong)
		case !fails && (err != nil || namesOf(list) != c.want):
			t.Errorf("pick(%q) is %q, %v; want %q", c.names, namesOf(list), err, c.want)
		}
	}
}

// Programs of one module are one build; the order is kept.
func TestByModule(t *testing.T) {
	list, err := pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	groups := byModule(list)
	if len(groups) != 2 || namesOf(groups[1]) != "pause" || len(groups[0])+1 != len(list) {
		t.Errorf("%d groups; the second is %q", len(groups), namesOf(groups[1]))
	}
}
