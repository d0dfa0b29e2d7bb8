package settings

import "strings"

// Effect is what Manx does with a setting.
type Effect string

// The effects.
const (
	// ActedOn: what it asks for happens.
	ActedOn Effect = "acted on"
	// Refused: what has the setting is not used, or not as if nothing had been said:
	// the node or the pool is not ready, the pod is not started.
	Refused Effect = "refused"
	// NoEffect: it is kept, and nothing follows from it. It is reported.
	NoEffect Effect = "no effect"
)

// Weight says how bad it is that a setting has no effect.
type Weight int

// The weights.
const (
	// Reported: an Event, a condition and a line of manxctl status say it.
	Reported Weight = iota
	// NotReady: a matter of safety or of who reaches whom, so that the node or pool
	// that the setting is for is not ready, or the pod's ADD fails, until it is gone.
	NotReady
)

// Any in an entry's Quiet stands for every value.
const Any = "*"

// Entry is what is known of one setting.
type Entry struct {
	// Name is the setting: a field's path such as spec.exportV4[].cidr (a name that
	// ends in .* stands for everything below it), a variable, a key, an annotation.
	Name   string
	Effect Effect
	// Why says, of a setting without effect, why it has none and what to do instead;
	// of one that is acted on, within which limits. It follows a colon.
	Why string
	// Shown is the test that shows what is acted on: the directory and the name.
	Shown string
	// Quiet are the values, in any case, that ask for what happens anyway: they are
	// not reported. Empty values never are.
	Quiet  []string
	Weight Weight
}

// AsksNothing reports whether a value asks for nothing that does not happen.
func (e Entry) AsksNothing(value string) bool {
	for _, q := range e.Quiet {
		if q == Any || strings.EqualFold(q, value) {
			return true
		}
	}
	return false
}

// acted is an entry of a setting that is acted on, as a test shows.
func acted(name, shown string) Entry { return Entry{Name: name, Effect: ActedOn, Shown: shown} }

// none is an entry of a setting without effect.
func none(name, why string, quiet ...string) Entry {
	return Entry{Name: name, Effect: NoEffect, Why: why, Quiet: quiet}
}

// refused is an entry of a setting that keeps what has it from being ready.
func refused(name, why string, quiet ...string) Entry {
	return Entry{Name: name, Effect: Refused, Why: why, Quiet: quiet, Weight: NotReady}
}

// Kind has the fields of one kind of object.
type Kind struct {
	Kind   string
	Plural string // as in a request path
	// Records are written by programs and not set by users: nothing of them is
	// reported.
	Record bool
	// Only are the names of the objects that are read; one that ends in a dot is the
	// beginning of names. Empty: all are.
	Only []string
	// Entries are in the order of the type's fields.
	Entries []Entry
	// Calico are fields of the same kind that Calico has and api/v1 has not. Schemas
	// that keep unknown fields let them through.
	Calico []string
}

// Of returns what is known of a kind.
func Of(kind string) (Kind, bool) {
	for _, k := range Kinds {
		if k.Kind == kind {
			return k, true
		}
	}
	return Kind{}, false
}

// Entry returns the entry of a field: its own, or that of what it is a part of.
func (k Kind) Entry(field string) (Entry, bool) {
	for path := field; ; {
		for _, e := range k.Entries {
			name, whole := strings.CutSuffix(e.Name, ".*")
			if name == path && (path == field || whole || e.Effect != ActedOn) {
				return e, true
			}
		}
		cut := strings.LastIndexByte(path, '.')
		if cut < 0 {
			return Entry{}, false
		}
		path = strings.TrimSuffix(path[:cut], "[]")
	}
}

// reads reports whether objects of that name are read.
func (k Kind) reads(name string) bool {
	for _, only := range k.Only {
		if name == only || strings.HasSuffix(only, ".") && strings.HasPrefix(name, only) {
			return true
		}
	}
	return len(k.Only) == 0
}

// Kinds are the kinds of api/v1, sorted by plural name as there.
var Kinds = []Kind{
	bgpConfiguration, bgpFilter, bgpPeer, blockAffinity, calicoNodeStatus, clusterInformation, felixConfiguration,
	ipamBlock, ipamConfig, ipamHandle, ipPool, ipReservation, kubeControllersConfiguration,
}
