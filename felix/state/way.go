package state

import "strings"

// Encap is what packets between nodes are wrapped in.
type Encap string

const (
	// EncapNone: packets travel as they are.
	EncapNone Encap = ""
	// EncapIPIP: IPv4 in IPv4 (RFC 2003).
	EncapIPIP Encap = "IPIP"
)

// When says which packets to a pool an encapsulation is for: an IPPool's ipipMode and
// vxlanMode have these values. Empty is Never.
type When string

// The values of ipipMode and vxlanMode.
const (
	Never       When = "Never"
	Always      When = "Always"
	CrossSubnet When = "CrossSubnet"
)

// On reports whether the value asks for the encapsulation at all.
func (w When) On() bool { return w != "" && w != Never }

// Way is how packets to a pool travel: in what, and which of them. The zero Way is Plain.
type Way struct {
	Encap Encap
	When  When
}

// The ways that this build knows.
var (
	Plain           = Way{}
	IPIPAlways      = Way{EncapIPIP, Always}
	IPIPCrossSubnet = Way{EncapIPIP, CrossSubnet}
)

// Unsaid is the way that an empty text says: none that is known, Plain least of all.
var Unsaid = Way{When: "?"}

// WayBy is the way of a pool that asks for an encapsulation; Plain when it does not.
func WayBy(e Encap, when When) Way {
	if !when.On() {
		return Plain
	}
	return Way{e, when}
}

// ParseWay reads the text of a Way. It reads every text, also what an agent of a later
// version writes: Known tells whether this build knows the result.
func ParseWay(text string) Way {
	if When(text) == Never {
		return Plain
	}
	if when := When(text); when == Always || when == CrossSubnet {
		return Way{EncapIPIP, when}
	}
	if text == "" {
		return Unsaid
	}
	encap, when, _ := strings.Cut(text, "/")
	return Way{Encap(encap), When(when)}
}

// Known reports whether this build can send packets that way.
func (w Way) Known() bool { return w == Plain || w == IPIPAlways || w == IPIPCrossSubnet }

// Encapsulates reports whether packets are wrapped in anything that this build knows.
func (w Way) Encapsulates() bool { return w.Known() && w != Plain }

// String is the text of the Way: Never for Plain, and of IPIP the ipipMode alone, as
// agents wrote before there was another encapsulation; else the encapsulation, a slash
// and when.
func (w Way) String() string {
	switch {
	case w == Plain:
		return string(Never)
	case w.Encap == EncapIPIP && (w.When == Always || w.When == CrossSubnet):
		return string(w.When)
	case w == Unsaid:
		return ""
	case w.When == "":
		return string(w.Encap)
	}
	return string(w.Encap) + "/" + string(w.When)
}

// MarshalText implements encoding.TextMarshaler.
func (w Way) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Way) UnmarshalText(text []byte) error {
	*w = ParseWay(string(text))
	return nil
}

// CompareWays orders by the text.
func CompareWays(a, b Way) int { return strings.Compare(a.String(), b.String()) }
