package agent

import (
	"fmt"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/datastore"
)

// wireGuard are the settings of a FelixConfiguration that ask for encryption.
var wireGuard = []struct {
	field string
	of    func(apiv1.FelixConfigurationSpec) *bool
	off   func(config.Dataplane) bool // by the environment, which comes first
}{
	{"wireguardEnabled", func(c apiv1.FelixConfigurationSpec) *bool { return c.WireguardEnabled },
		func(d config.Dataplane) bool { return d.WireGuardOff }},
	{"wireguardEnabledV6", func(c apiv1.FelixConfigurationSpec) *bool { return c.WireguardEnabledV6 },
		func(d config.Dataplane) bool { return d.WireGuardOffV6 }},
}

// notEncrypted says which FelixConfiguration asks for the encryption of this node's
// packets, which this version does not have. A node that sends in clear what is to be
// encrypted must not look well.
func notEncrypted(node string, set config.Dataplane, s *datastore.Snapshot) (out []state.Condition) {
	for _, w := range wireGuard {
		on, object := s.FelixSwitch(node, w.of)
		if !on || w.off(set) {
			continue
		}
		out = append(out, state.Condition{
			Kind: state.EncryptionUnsupported, Subject: "FelixConfiguration " + object,
			Message: fmt.Sprintf("%s is true, and this version of Manx has no WireGuard: packets of pods are not encrypted; "+
				"set it to false if that is meant: "+
				"kubectl patch felixconfigurations.%s %s --type merge -p '{\"spec\":{\"%s\":false}}'",
				w.field, apiv1.GroupName, object, w.field),
		})
	}
	return out
}
