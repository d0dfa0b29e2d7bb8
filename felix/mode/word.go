package mode

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/manx-cni/manx/felix/state"
)

// Stage is how far a node is with a change.
type Stage string

// The stages in their order. Preparing is what a node is in before it says
// anything else about a new target.
const (
	Preparing Stage = "preparing"
	Accepting Stage = "accepting"
	Verified  Stage = "verified"
	Sending   Stage = "sending"
)

var rank = map[Stage]int{Preparing: 0, Accepting: 1, Verified: 2, Sending: 3}

// Word is what one node says of one pool.
type Word struct {
	// Sends is how this node sends packets to the pool now.
	Sends state.Way `json:"sends"`
	// Target is where it is going, as it has read the pool.
	Target state.Way `json:"target"`
	Stage  Stage     `json:"stage"`
	// Gen is the generation of the pool's object that the node has read. Without it
	// a word could be taken for an answer to a question asked later, when a pool
	// changes to and fro.
	Gen int64 `json:"gen"`
	// UID is that object's metadata.uid: a pool that is deleted and made anew under its
	// name is another, of which nobody has said anything. Empty matches every pool.
	UID string `json:"uid,omitempty"`
	// Why says what keeps this node in its stage, when that is its own fault.
	Why string `json:"why,omitempty"`
	// Unknown says what of another agent's word this one does not know: it is a newer one.
	// Such a node speaks, so it is not one without an agent, and is in no stage.
	Unknown string `json:"-"`
}

// settled reports whether the node has arrived at mode.
func (w Word) settled(mode state.Way) bool {
	return w.Sends == mode && w.Target == mode && w.Stage == Sending
}

// about reports whether the word is about that pool, or about one before it that had
// the same name.
func (w Word) about(p Pool) bool { return w.UID == "" || p.UID == "" || w.UID == p.UID }

// heard reports whether the word is about the pool as it is now, and understood.
func (w Word) heard(p Pool) bool {
	return w.Unknown == "" && w.about(p) && w.Target == p.Target && w.Gen == p.Gen
}

// reached reports whether the node is at least in stage on its way to p's target.
func (w Word) reached(p Pool, stage Stage) bool {
	return w.heard(p) && rank[w.Stage] >= rank[stage]
}

// Words are what one node says, by pool.
type Words map[string]Word

// Equal compares two nodes' words.
func (w Words) Equal(o Words) bool { return maps.Equal(w, o) }

// Encode is the text of the annotation.
func (w Words) Encode() string {
	b, err := json.Marshal(w)
	if err != nil {
		panic(fmt.Sprintf("encode %v: %v", w, err)) // strings only
	}
	return string(b)
}

// maxWhy bounds a reason, in bytes: what this node gives and what it repeats of another's.
const maxWhy = 300

func cut(why string) string { return strings.ToValidUTF8(why[:min(len(why), maxWhy)], "") }

// Parse reads the annotation; no text is no words. It reads pool by pool: an agent of a
// later version may say of one pool what this one does not know, and be understood in the
// others. The error says that the text is no list of pools at all.
func Parse(text string) (Words, error) {
	if text == "" {
		return nil, nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, fmt.Errorf("pool modes %.80q: %w", text, err)
	}
	words := make(Words, len(raw))
	for pool, text := range raw {
		words[pool] = parseWord(text)
	}
	return words, nil
}

// parseWord reads what is said of one pool. What is not known is said in Unknown.
func parseWord(text []byte) Word {
	w := Word{Sends: state.Unsaid, Target: state.Unsaid}
	if err := json.Unmarshal(text, &w); err != nil {
		return Word{Sends: state.Unsaid, Target: state.Unsaid, Unknown: fmt.Sprintf("%.40q", text)}
	}
	_, known := rank[w.Stage]
	switch {
	case !w.Sends.Known():
		w.Unknown = fmt.Sprintf("sends %.40q", w.Sends)
	case !w.Target.Known():
		w.Unknown = fmt.Sprintf("target %.40q", w.Target)
	case !known:
		w.Unknown = fmt.Sprintf("stage %.40q", string(w.Stage))
	}
	w.Why = cut(w.Why)
	return w
}

// sendsIPIP reports whether the node is known to send packets to the pool in IPIP.
func (w Word) sendsIPIP() bool { return w.Sends.Encap == state.EncapIPIP && w.Sends.Known() }
