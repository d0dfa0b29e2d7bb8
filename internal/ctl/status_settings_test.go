package ctl

import (
	"errors"
	"strings"
	"testing"

	"github.com/manx-cni/manx/internal/settingsreport"
)

func TestClusterSettingsText(t *testing.T) {
	for want, s := range map[string]clusterSettings{
		"": {},
		"\nSet without effect\n  BGPPeer/tor: spec.peerIP=192.0.2.1: no peers\n  namespace/web: 1 network policy (deny) has no effect\n": {
			lines: []settingsreport.Line{
				{About: "BGPPeer/tor", Text: "spec.peerIP=192.0.2.1: no peers"},
				{About: "namespace/web", Text: "1 network policy (deny) has no effect"},
			},
		},
		"\nSet without effect\n  not known of everything: list a: forbidden; list b: forbidden\n": {
			err: errors.Join(errors.New("list a: forbidden"), errors.New("list b: forbidden")),
		},
	} {
		var out strings.Builder
		if err := s.write(&out); err != nil || out.String() != want {
			t.Errorf("%q, %v; want %q", out.String(), err, want)
		}
	}
}
