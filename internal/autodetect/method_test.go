package autodetect

import (
	"strings"
	"testing"
)

func TestParseMethod(t *testing.T) {
	for _, tc := range []struct {
		in      string
		kind    kind
		wantErr string // substring; empty: accepted
	}{
		{in: "", kind: firstFound},
		{in: "first-found", kind: firstFound},
		{in: "kubernetes-internal-ip", kind: internalIP},
		{in: "interface=eth.*", kind: byInterface},
		{in: "interface=^eth0$ , ens.*", kind: byInterface},
		{in: "skip-interface=ens8,br.*", kind: skipInterface},
		{in: "can-reach=10.0.0.1", kind: canReach},
		{in: "can-reach=www.example.com", kind: canReach},
		{in: "cidr=10.0.0.0/8,192.168.0.0/16", kind: byCIDR},
		{in: "First-Found", wantErr: "not an autodetection method"},
		{in: "interfaces=eth0", wantErr: "not an autodetection method"},
		{in: "interface=", wantErr: "empty regular expression"},
		{in: "interface=eth0,", wantErr: "empty regular expression"},
		{in: "interface=eth(", wantErr: `"eth(" is not a regular expression`},
		{in: "skip-interface=*", wantErr: `"*" is not a regular expression`},
		{in: "cidr=10.0.0.0/33", wantErr: `"10.0.0.0/33" is not a CIDR`},
		{in: "cidr=", wantErr: "empty CIDR"},
		{in: "can-reach=", wantErr: "neither"},
		{in: "can-reach=http://example.com", wantErr: "neither"},
		{in: "can-reach=fd00::1", wantErr: "not an IPv4 destination"},
		{in: "can-reach=0.0.0.0", wantErr: "not an IPv4 destination"},
		{in: "kubernetes-internal-ip=1", wantErr: "not an autodetection method"},
	} {
		m, err := ParseMethod(tc.in)
		switch {
		case tc.wantErr == "" && err != nil:
			t.Errorf("ParseMethod(%q): %v", tc.in, err)
		case tc.wantErr == "" && m.kind != tc.kind:
			t.Errorf("ParseMethod(%q) = kind %d, want %d", tc.in, m.kind, tc.kind)
		case tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)):
			t.Errorf("ParseMethod(%q) = %v, want an error with %q", tc.in, err, tc.wantErr)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{ // "!" marks the error
		"":              "",
		"autodetect":    "autodetect",
		"none":          "none",
		"10.0.0.5":      "10.0.0.5",
		"10.0.0.5/24":   "10.0.0.5/24",
		"10.0.0.4/31":   "10.0.0.4/31",
		"10.0.0.5/32":   "10.0.0.5/32",
		"10.0.0.0/24":   "!the network's address",
		"127.0.0.1":     "!not a unicast address",
		"169.254.1.1":   "!not a unicast address",
		"224.0.0.1/4":   "!not a unicast address",
		"0.0.0.0":       "!not a unicast address",
		"fd00::1":       "!not an IPv4 address",
		"fd00::1/64":    "!not an IPv4 address",
		"10.0.0.5/33":   "!with a prefix length",
		"10.0.0":        "!not an IPv4 address",
		"Autodetect":    "!not an IPv4 address",
		" 10.0.0.5":     "!not an IPv4 address", //nolint:gocritic // the space is what is tried
		"10.0.0.5/024":  "!with a prefix length",
		"010.0.0.5":     "!not an IPv4 address",
		"10.0.0.5,none": "!not an IPv4 address",
	} {
		a, err := ParseAddress(in)
		if wantErr, bad := strings.CutPrefix(want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("ParseAddress(%q) = %v, %v; want an error with %q", in, a, err, wantErr)
			}
		} else if err != nil || a.String() != want {
			t.Errorf("ParseAddress(%q) = %q, %v; want %q", in, a, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "none", "10.0.0.5/24", "first-found", "interface=eth.*,(", "cidr=10.0.0.0/8", "can-reach=x",
		"fd00::5/64", "cidr=fd00::/8", "fd00000000000000000000000000000g 04 40 00 01 x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ParseMethod(s); err == nil {
			again, err := ParseMethod(m.String())
			if err != nil || !again.Equal(m) {
				t.Fatalf("ParseMethod(%q) does not survive its own String: %v %v", s, again, err)
			}
		}
		if a, err := ParseAddress(s); err == nil {
			again, err := ParseAddress(a.String())
			if err != nil || again != a {
				t.Fatalf("ParseAddress(%q) does not survive its own String: %v %v", s, again, err)
			}
		}
		if m, err := ParseMethod6(s); err == nil {
			again, err := ParseMethod6(m.String())
			if err != nil || !again.Equal(m) {
				t.Fatalf("ParseMethod6(%q) does not survive its own String: %v %v", s, again, err)
			}
		}
		if a, err := ParseAddress6(s); err == nil {
			again, err := ParseAddress6(a.String())
			if err != nil || again != a {
				t.Fatalf("ParseAddress6(%q) does not survive its own String: %v %v", s, again, err)
			}
		}
		parseUnfit(s) // whatever it is: no panic
	})
}
