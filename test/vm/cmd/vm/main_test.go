package main

import (
	"slices"
	"testing"

	"github.com/manx-cni/manx/test/vm"
)

func TestParseMemory(t *testing.T) {
	for in, want := range map[string]int{"10G": 10240, "512M": 512, "700": 700, "": 0, "G": 0, "-1G": 0, "10T": 0, "1.5G": 0, "99999999G": 0} {
		got, err := parseMemory(in)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%q gives %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseNIC(t *testing.T) {
	for in, want := range map[string]vm.NIC{
		"lab-demo-fabric":      {NetNS: "/run/netns/lab-demo-fabric", Bridge: "br0"},
		"lab-demo-fabric:br1":  {NetNS: "/run/netns/lab-demo-fabric", Bridge: "br1"},
		"/proc/7/ns/net":       {NetNS: "/proc/7/ns/net", Bridge: "br0"},
		"./ns:b":               {NetNS: "./ns", Bridge: "b"},
		"":                     {},
		":br0":                 {},
		"lab-demo-fabric:":     {},
		"lab-demo-fabric:b:r0": {},
	} {
		got, err := parseNIC(in)
		if got != want || (err != nil) != (want == vm.NIC{}) {
			t.Errorf("%q gives %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestCallersValues(t *testing.T) {
	lookup := func(name string) (string, bool) { return "here", name == "SET" }
	got := callersValues([]string{"A=1", "SET", "UNSET", "SET=2", "E="}, lookup)
	if want := []string{"A=1", "SET=here", "SET=2", "E="}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
