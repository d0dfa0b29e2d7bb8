package agent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/mode"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/excerpt"
	"github.com/manx-cni/manx/internal/insist"
)

// announcement is what a node's annotations say of its modes.
type announcement struct {
	words mode.Words
	addr  netip.Addr // of its tunnel; zero for none
}

// agreement is this node's voice among the others: it hears what they say of the pools,
// and says what was decided here. Nothing is acted on before it is said, and what is said
// is in the Node's annotations, so that a restarted agent goes on where it was.
type agreement struct {
	node string
	log  *slog.Logger
	do   modeActions
	wake func()

	parsed map[string]mode.Peer // the others' annotations: most nodes say the same; the loop's

	mu      sync.Mutex
	loaded  bool
	said    announcement
	times   uint64 // that something was said
	decided bool
	next    announcement
	fresh   bool              // the words of next are based on said
	heard   bool              // the API has shown what was said
	unheard bool              // and then no more, or never: it was changed, or the Node was made again
	saidAt  time.Time         // when it was said
	insist  insist.Insistence // how often it was said again
}

// heardWithin is how long the API may take to show what was said. After that another
// program has said something in between.
const heardWithin = 15 * time.Second

// hear takes up what the API shows of this node. What it returns was said last; times
// names it to decide.
func (g *agreement) hear(s *datastore.Snapshot) (said announcement, times uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	self, known := s.Node(g.node)
	shown := self.Tunnels[ipipEncap.asked].Addr
	if !g.loaded { // what an agent before this one has said
		words, err := mode.Parse(self.PoolModes)
		if err != nil {
			g.log.Warn("what this node has said of its pools is not understood; it begins again",
				"annotation", apiv1.AnnotationNodePoolModes, "err", err)
		}
		g.loaded, g.said = true, announcement{words, shown}
	}
	if known && g.said.words != nil {
		same := self.PoolModes == g.said.words.Encode() && shown == g.said.addr
		g.unheard = !same && (g.heard || time.Since(g.saidAt) > heardWithin)
		g.heard = g.heard || same
	}
	return g.said, g.times
}

// decide says what is to be said next. Words that were decided on other words than those
// said last are not said: they would call the last ones back.
func (g *agreement) decide(next announcement, times uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.decided, g.next, g.fresh = true, next, times == g.times
}

// address is the tunnel's address that the Node says; zero for none.
func (g *agreement) address() netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.said.addr
}

// keepPublished makes the Node's annotations say what was decided. Only then is it
// acted on.
func (g *agreement) keepPublished(ctx context.Context) (ok bool) {
	g.mu.Lock()
	if !g.decided {
		g.mu.Unlock()
		return true
	}
	now := announcement{g.said.words, g.next.addr}
	if g.fresh {
		now.words = g.next.words
	}
	want := map[string]*string{}
	again := g.unheard && g.insist.May(time.Now())
	if now.words != nil && (g.said.words == nil || again || !now.words.Equal(g.said.words)) {
		text := now.words.Encode()
		want[apiv1.AnnotationNodePoolModes] = &text
	}
	if now.addr != g.said.addr || again {
		want[ipipEncap.annotation] = nil
		if now.addr.IsValid() {
			text := now.addr.String()
			want[ipipEncap.annotation] = &text
		}
	}
	g.mu.Unlock()
	if len(want) == 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	if err := g.do.publish(ctx, want); err != nil {
		g.log.Warn("how this node sends to its pools could not be published; trying again", "err", err)
		return false
	}
	g.mu.Lock()
	before := g.said.words
	// What was decided meanwhile started from the word before, and must not call
	// this one back.
	g.said, g.fresh = now, false
	g.times++
	g.heard, g.unheard, g.saidAt = false, false, time.Now()
	g.mu.Unlock()
	g.tell(before, now.words)
	g.wake()
	return true
}

// tell logs and reports what has changed.
func (g *agreement) tell(before, now mode.Words) {
	for _, pool := range slices.Sorted(maps.Keys(now)) {
		was, is := before[pool], now[pool]
		switch {
		case was == (mode.Word{}):
			g.log.Info("pool mode", "pool", pool, "sends", is.Sends, "target", is.Target, "stage", is.Stage)
		case was.Sends != is.Sends:
			g.log.Info("pool mode changed", "pool", pool, "sends", is.Sends, "was", was.Sends)
			g.do.changed(pool, was.Sends, is.Sends)
		case was.Stage != is.Stage || was.Target != is.Target:
			g.log.Info("pool mode is changing", "pool", pool, "sends", is.Sends, "target", is.Target, "stage", is.Stage)
		}
	}
}

// peers are the other nodes on which an agent has run.
func (g *agreement) peers(s *datastore.Snapshot) (out []mode.Peer) {
	parsed := make(map[string]mode.Peer, len(g.parsed))
	for _, n := range s.Nodes {
		if n.Name == g.node || !n.IPv4.IsValid() {
			continue
		}
		said, known := parsed[n.PoolModes]
		if !known {
			said, known = g.parsed[n.PoolModes]
		}
		if !known {
			said = g.read(n)
		}
		parsed[n.PoolModes] = said
		said.Name = n.Name
		out = append(out, said)
	}
	g.parsed = parsed
	return out
}

// read reads what another node says of its pools, and logs what of it is not understood:
// a change of such a pool waits for that node.
func (g *agreement) read(n datastore.Node) mode.Peer {
	words, err := mode.Parse(n.PoolModes)
	if err != nil {
		g.log.Warn("what a node says of its pools cannot be read; run one version of Manx on all nodes",
			"node", n.Name, "annotation", apiv1.AnnotationNodePoolModes, "err", err)
		return mode.Peer{Unreadable: "its annotation " + apiv1.AnnotationNodePoolModes + " cannot be read"}
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(words)) {
		if words[name].Unknown != "" {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 { // one line with a bound, whatever a node writes into its annotation
		first := unknown[0]
		g.log.Warn("a node says of pools what this version does not know; run one version of Manx on all nodes",
			"node", n.Name, "pools", len(unknown), "pool", excerpt.Value(first), "unknown", words[first].Unknown)
	}
	return mode.Peer{Words: words}
}
