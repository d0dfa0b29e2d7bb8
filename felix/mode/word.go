package mode

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/manx-cni/manx/felix/calc"
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
	Sends calc.EncapMode `json:"sends"`
	// Target is where it is going, as it has read the pool.
	Target calc.EncapMode `json:"target"`
	Stage  Stage          `json:"stage"`
	// Gen is the generation of the pool's object that the node has read. Without it
	// a word could be taken for an answer to a question asked later, when a pool
	// changes to and fro.
	Gen int64 `json:"gen"`
	// UID is that object's metadata.uid: a pool that is deleted and made anew under its
	// name is another, of which nobody has said anything. Empty matches every pool.
	UID string `json:"uid,omitempty"`
	// Why says what keeps this node in its stage, when that is its own fault.
	Why string `json:"why,omitempty"`
}

// settled reports whether the node has arrived at mode.
func (w Word) settled(mode calc.EncapMode) bool {
	return w.Sends == mode && w.Target == mode && w.Stage == Sending
}

// about reports whether the word is about that pool, or about one before it that had
// the same name.
func (w Word) about(p Pool) bool { return w.UID == "" || p.UID == "" || w.UID == p.UID }

// heard reports whether the word is about the pool as it is now.
func (w Word) heard(p Pool) bool { return w.about(p) && w.Target == p.Target && w.Gen == p.Gen }

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

// Parse reads the annotation; no text is no words. What other agents say is taken
// only as far as it makes sense.
func Parse(text string) (Words, error) {
	if text == "" {
		return nil, nil
	}
	var w Words
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, fmt.Errorf("pool modes %.80q: %w", text, err)
	}
	for pool, word := range w {
		if !valid(word.Sends) || !valid(word.Target) {
			return nil, fmt.Errorf("pool modes: pool %q: sends %q on the way to %q: want Never, Always or CrossSubnet", pool, word.Sends, word.Target)
		}
		if _, known := rank[word.Stage]; !known {
			return nil, fmt.Errorf("pool modes: pool %q: stage %q: want preparing, accepting, verified or sending", pool, word.Stage)
		}
		word.Why = cut(word.Why)
		w[pool] = word
	}
	return w, nil
}

func valid(m calc.EncapMode) bool {
	return m == calc.Never || m == calc.Always || m == calc.CrossSubnet
}
