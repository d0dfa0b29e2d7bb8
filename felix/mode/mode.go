package mode

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/manx-cni/manx/felix/state"
)

// Pool is a pool and what its object says.
type Pool struct {
	Name string
	// Target is the way that it asks for.
	Target state.Way
	// Gen and UID are the object's metadata.generation and metadata.uid.
	Gen int64
	UID string
	// Force lets the change go on although probes fail.
	Force bool
}

// Peer is another node of the cluster.
type Peer struct {
	Name  string
	Words Words
	// Unreadable says why what the node says cannot be read, of any pool.
	Unreadable string
}

// Input is what one node knows.
type Input struct {
	Pools []Pool
	// Own is what this node has said last, nil when it never has.
	Own Words
	// Others are all other nodes on which an agent has ever run.
	Others []Peer

	// NotReady says why IPIP is not accepted yet: the tunnel's device, its address
	// or the packet filter is not as it should be. Empty: it is accepted.
	NotReady string
	// TunnelProblem says why there can be no tunnel on this node.
	TunnelProblem string
	// TunnelUp: the device is there, whether wanted or not.
	TunnelUp bool
	// PodsNotReady says why running pods may send packets too large for the tunnel.
	PodsNotReady string
	// Probes has the result of the probes by target mode. A mode that is missing
	// has not been probed.
	Probes map[state.Way]Probe
	// Applied: the kernel's routes are what Own says this node sends, and none is held
	// back from an agent before this one.
	Applied bool
	// ApplyError says what the kernel refuses of that.
	ApplyError string
}

// Probe is the result of asking all other nodes by a new way.
type Probe struct {
	// Failed names what failed, empty when all is well.
	Failed []string
}

// Held is a change that waits, and what for.
type Held struct {
	Pool, Message string
}

// Decision is what a node does now.
type Decision struct {
	// Own is what it says now. It acts on it only after having said it.
	Own Words
	// Tunnel: the device is wanted, because this node sends or may be sent IPIP.
	Tunnel bool
	// TunnelFor says who needs the device although no pool asks for IPIP.
	TunnelFor []string
	// Probe are the modes to be probed.
	Probe []state.Way
	// Held are the changes that wait, by pool.
	Held []Held
	// Moving: some pool has not arrived on some node.
	Moving bool
}

// Step decides. The order of what is listed in in never matters.
func Step(in Input) Decision {
	d := Decision{Own: Words{}}
	for _, p := range in.Pools {
		w := next(in, p)
		w.Why = cut(w.Why)
		d.Own[p.Name] = w
		d.judge(in, p, w)
	}
	d.tunnel(in)
	slices.SortFunc(d.Held, func(a, b Held) int { return strings.Compare(a.Pool, b.Pool) })
	slices.SortFunc(d.Probe, state.CompareWays)
	d.Probe = slices.Compact(d.Probe)
	return d
}

// next is what this node says of p now: one stage further when nothing hinders it.
func next(in Input, p Pool) Word {
	w, said := in.Own[p.Name]
	if !said || !w.about(p) || w.Unknown != "" {
		w = first(in, p)
	}
	w.Why = ""
	if w.Sends == p.Target {
		// It does, or is about to; or it is called back before it had left.
		if w.Target != p.Target || w.Stage != Sending {
			w.Stage = Verified
			if in.Applied {
				w.Stage = Sending
			} else {
				w.Why = in.ApplyError
			}
		}
		w.Target, w.Gen, w.UID = p.Target, p.Gen, p.UID
		return w
	}
	// Who has accepted and cannot any longer says so, whatever it has said before.
	broken := p.Target != state.Plain && in.TunnelProblem != ""
	if !w.heard(p) || w.Stage == Sending || broken {
		w = Word{Sends: w.Sends, Target: p.Target, Stage: Preparing, Gen: p.Gen}
	}
	w.UID = p.UID
	switch w.Stage {
	case Preparing:
		if w.Why = in.hinders(p.Target); w.Why == "" {
			w.Stage = Accepting
		}
	case Accepting:
		if len(missing(in, p, Accepting)) > 0 {
			break
		}
		if probe, done := in.Probes[p.Target]; done && len(probe.Failed) > 0 && !p.Force {
			w.Why = list(probe.Failed)
		} else if done || p.Force {
			w.Stage = Verified
		}
	case Verified:
		if len(missing(in, p, Verified)) == 0 {
			w.Sends = p.Target
		}
	}
	return w
}

// first is the word on a pool of which this node has never said anything. A node
// that joins sends as the others do; a pool that is new to all is as it should be. Where
// others speak of the pool and none is understood, packets travel plain: that takes no
// device on the other side, and whatever else is asked for waits for their answer.
func first(in Input, p Pool) Word {
	votes := map[state.Way]int{}
	agreed, unknown := false, false
	for _, o := range in.Others {
		w, ok := o.Words[p.Name]
		switch {
		case o.Unreadable != "" || ok && w.about(p) && !w.Sends.Known():
			unknown = true
		case ok && w.about(p):
			votes[w.Sends]++
			// Whoever sends it now has seen that all accept it. What a node that is
			// down did in a former time says nothing.
			agreed = agreed || w.Sends == p.Target && w.heard(p)
		}
	}
	if !agreed && len(votes) == 0 && unknown {
		return Word{Sends: state.Plain, Target: p.Target, Stage: Preparing, Gen: p.Gen, UID: p.UID}
	}
	if agreed || len(votes) == 0 {
		return Word{Sends: p.Target, Target: p.Target, Stage: Sending, Gen: p.Gen, UID: p.UID}
	}
	most := slices.MaxFunc(slices.SortedFunc(maps.Keys(votes), state.CompareWays), func(a, b state.Way) int { return votes[a] - votes[b] })
	return Word{Sends: most, Target: p.Target, Stage: Preparing, Gen: p.Gen, UID: p.UID}
}

// hinders says why this node does not accept target yet, empty when it does.
func (in Input) hinders(target state.Way) string {
	switch {
	case in.TunnelProblem != "" && target == state.Plain:
		return "" // there is no tunnel that its packets could be mistaken for
	case in.TunnelProblem != "":
		return in.TunnelProblem
	case in.NotReady != "":
		return in.NotReady
	case target != state.Plain:
		return in.PodsNotReady
	}
	return ""
}

// missing lists the other nodes that have not reached stage on the way to p's
// target, with what is known of the reason.
func missing(in Input, p Pool, stage Stage) (out []string) {
	for _, o := range in.Others {
		w, ok := o.Words[p.Name]
		switch {
		case ok && w.reached(p, stage):
		case ok && w.heard(p) && w.Why != "":
			out = append(out, fmt.Sprintf("%s (%s)", o.Name, w.Why))
		case ok && w.heard(p):
			out = append(out, fmt.Sprintf("%s (%s)", o.Name, w.Stage))
		case ok && w.Unknown != "":
			out = append(out,
				fmt.Sprintf("%s (its agent says of the pool what this one does not know, %s: run one version of Manx on all nodes)", o.Name, w.Unknown))
		case o.Unreadable != "":
			out = append(out, fmt.Sprintf("%s (%s: run one version of Manx on all nodes)", o.Name, o.Unreadable))
		default:
			out = append(out, o.Name+" (has not answered: is its agent running?)")
		}
	}
	slices.Sort(out)
	return out
}

// judge adds what follows from this node's word on p.
func (d *Decision) judge(in Input, p Pool, w Word) {
	hold := func(what []string) {
		if len(what) > 0 {
			d.Held = append(d.Held, Held{p.Name, fmt.Sprintf("ipipMode is %s, %s: waiting for %s", p.Target, travelling(p, w), list(what))})
		}
	}
	if w.settled(p.Target) {
		d.Moving = d.Moving || len(missing(in, p, Sending)) > 0
		hold(stuck(in, p))
		return
	}
	d.Moving = true
	if w.Sends == p.Target { // its routes are being written
		if w.Why != "" {
			hold([]string{"this node (" + w.Why + ")"})
		}
		return
	}
	stage := Accepting
	if w.Stage == Verified {
		stage = Verified
	}
	what := missing(in, p, stage)
	if w.Stage == Accepting && len(what) == 0 {
		d.Probe = append(d.Probe, p.Target)
	}
	if w.Why != "" {
		what = slices.Insert(what, 0, "this node ("+w.Why+")")
	}
	hold(what) // or nothing: it is on its way
}

// travelling says how this node sends to p.
func travelling(p Pool, w Word) string {
	if w.Sends == p.Target {
		return "packets from here travel so, not all from elsewhere"
	}
	return "packets still travel as with " + w.Sends.String()
}

// stuck lists the other nodes that cannot send p's way although all accept it.
func stuck(in Input, p Pool) (out []string) {
	for _, o := range in.Others {
		if w := o.Words[p.Name]; w.heard(p) && w.Sends == p.Target && w.Stage != Sending && w.Why != "" {
			out = append(out, fmt.Sprintf("%s (%s)", o.Name, w.Why))
		}
	}
	slices.Sort(out)
	return out
}

// maxListed bounds how many nodes a message names.
const maxListed = 10

func list(what []string) string {
	if more := len(what) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(what[:maxListed], ", "), more)
	}
	return strings.Join(what, ", ")
}

// tunnel decides whether the device is wanted: as long as this node sends IPIP, or
// will, or any other does.
func (d *Decision) tunnel(in Input) {
	for _, w := range d.Own {
		d.Tunnel = d.Tunnel || w.Target != state.Plain || w.Sends != state.Plain || w.Stage != Sending
	}
	for _, w := range in.Own {
		// What was said last is what is done now.
		d.Tunnel = d.Tunnel || w.sendsIPIP() || w.Unknown != "" && in.TunnelUp
	}
	if d.Tunnel {
		return
	}
	for _, o := range in.Others {
		if in.TunnelUp && o.Unreadable != "" {
			d.TunnelFor = append(d.TunnelFor, o.Name)
			continue
		}
		for pool, w := range o.Words {
			// A device that is there stays until every node has said of the pool as
			// it is now that it does not send IPIP. One that is not is not made for
			// somebody who is only thinking about it.
			// Nor for a pool that does not exist: that is a word of a node that is gone.
			own, exists := d.Own[pool]
			// What is not understood keeps one as well, and makes none.
			quiet := w.Unknown == "" && w.Target == state.Plain && w.Stage == Sending && (!exists || w.Gen == own.Gen)
			if w.sendsIPIP() && (exists || in.TunnelUp) || in.TunnelUp && !quiet {
				d.TunnelFor = append(d.TunnelFor, o.Name)
				break
			}
		}
	}
	slices.Sort(d.TunnelFor)
	d.Tunnel = len(d.TunnelFor) > 0
}
