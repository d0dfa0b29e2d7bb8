package state

import "testing"

// TestWayText: the text of the ways that agents without another encapsulation wrote is
// what it was, and each text is read as what it says.
func TestWayText(t *testing.T) {
	for _, tc := range []struct {
		text  string
		way   Way
		known bool
	}{
		{"Never", Plain, true},
		{"", Unsaid, false},
		{"Always", IPIPAlways, true},
		{"CrossSubnet", IPIPCrossSubnet, true},
		{"VXLAN/Always", Way{"VXLAN", Always}, false},
		{"VXLAN/Sometimes", Way{"VXLAN", "Sometimes"}, false},
		{"Sometimes", Way{Encap: "Sometimes"}, false},
		{"IPIP/Sometimes", Way{EncapIPIP, "Sometimes"}, false},
	} {
		got := ParseWay(tc.text)
		if got != tc.way || got.Known() != tc.known || got.Encapsulates() != (tc.known && tc.way != Plain) {
			t.Errorf("%q is read as %+v, known %v, encapsulates %v", tc.text, got, got.Known(), got.Encapsulates())
		}
		if text := tc.way.String(); text != tc.text {
			t.Errorf("%+v is written as %q, want %q", tc.way, text, tc.text)
		}
	}
	if got := ParseWay("IPIP/Always"); got != IPIPAlways {
		t.Errorf("IPIP/Always is read as %+v", got)
	}
	if got := WayBy(EncapIPIP, ""); got != Plain {
		t.Errorf("an empty ipipMode is %+v", got)
	}
}
