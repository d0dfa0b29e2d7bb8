package v1

import "fmt"

// PoolEncapsulation is the reason of ConditionPoolReady when the pool asks for an
// encapsulation that is not carried: nothing is assigned from it.
const PoolEncapsulation = "EncapsulationUnsupported"

// ConditionPoolSettings is the condition of an IPPool that is False while fields are
// set that have no effect; its message names them. It is absent otherwise.
const ConditionPoolSettings = "SettingsEffective"

// Uncarried says why packets to the pool's addresses do not travel as it asks for;
// empty when they do.
func (p *IPPool) Uncarried() string {
	if !p.Spec.VXLANMode.on() {
		return ""
	}
	return fmt.Sprintf("asks for VXLAN (vxlanMode %s), which this version of Manx does not carry; set ipipMode, or vxlanMode Never",
		p.Spec.VXLANMode)
}
