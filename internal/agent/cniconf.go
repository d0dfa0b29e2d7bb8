package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/manx-cni/manx/cni-plugin/confdir"
	"github.com/manx-cni/manx/felix/state"
)

const (
	// cniConfDir is the node's CNI configuration directory as manifests/manx.yaml has it
	// mounted, read-only.
	cniConfDir = "/host/etc/cni/net.d"
	// cniConfEvery is how often it is looked at. Files come and go without a word: another
	// plugin's agent writes its own again whenever it starts.
	cniConfEvery = 5 * time.Second
)

// cniConf watches whether the container runtime of this node uses Manx: an agent whose
// sessions and routes are all well gets no pod when another configuration comes first.
type cniConf struct {
	dir  string
	log  *slog.Logger
	view atomic.Pointer[confdir.View] // nil: not known
	seen confdir.View                 // of the last look that succeeded; run's
	said string                       // of the last look; run's

	keys keyReport
}

func newCNIConf(dir string, log *slog.Logger) *cniConf { return &cniConf{dir: dir, log: log} }

// run looks again and again until ctx ends.
func (c *cniConf) run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		c.look()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look reads the directory, and logs what has changed since the last time. A file that
// cannot be read may be half written, as other plugins write theirs in place: it counts
// once two looks have found the same.
func (c *cniConf) look() {
	view, err := confdir.Look(c.dir)
	if err == nil {
		settled := view.Equal(c.seen) || !slices.ContainsFunc(view.Before, func(f confdir.File) bool { return f.Fault != "" })
		c.seen = view
		if !settled {
			return
		}
	}
	now, known := "", err == nil
	switch {
	case errors.Is(err, fs.ErrNotExist):
		now = "the CNI configuration directory is not mounted at " + c.dir +
			": not watching whether another plugin's configuration comes before Manx's"
	case err != nil:
		now = err.Error()
	default:
		c.view.Store(&view)
		c.lookAtKeys(view.Ours)
		for _, p := range c.conditions() {
			now += p.Subject + ": " + p.Message
		}
	}
	if !known {
		c.view.Store(nil)
	}
	switch {
	case now == c.said:
	case now == "":
		c.log.Info("the container runtime uses Manx's CNI configuration again", "file", view.Ours)
	case known:
		c.log.Warn("not ready: the container runtime does not use Manx's CNI configuration", "why", now)
	default:
		c.log.Warn("CNI configuration not watched", "why", now)
	}
	c.said = now
}

// conditions says what keeps pods from Manx, and what to do; none when nothing does, or
// when it is not known.
func (c *cniConf) conditions() []state.Condition {
	if c == nil { // not watched
		return nil
	}
	v := c.view.Load()
	if v == nil {
		return nil
	}
	if v.Ours == "" {
		says := "none of the node's CNI configurations is Manx's, so the container runtime has no network for pods"
		if len(v.Before) > 0 {
			says = fmt.Sprintf("none of the node's CNI configurations is Manx's; the container runtime uses %s, %s, for pods",
				v.Before[0].Name, v.Before[0])
		}
		return []state.Condition{{Kind: state.CNIConfigMissing, Subject: "/etc/cni/net.d",
			Message: says + ": delete the manx-node pod of this node, whose container install-cni writes 10-manx.conflist again"}}
	}
	if len(v.Before) == 0 {
		return nil
	}
	var names []string
	for _, f := range v.Before {
		names = append(names, "/etc/cni/net.d/"+f.Name)
	}
	return []state.Condition{{Kind: state.CNIConfigShadowed, Subject: strings.Join(names, ", "),
		Message: fmt.Sprintf("it comes before %s by name, "+
			"so the container runtime uses %s, %s, and Manx gets no pod: remove it from the node (rm %s) if that plugin is gone, "+
			"or set CNI_EXCLUSIVE=true in the container install-cni of the DaemonSet manx-node, which moves it out of the way; "+
			"pods that it was used for have to be deleted once",
			v.Ours, v.Before[0].Name, v.Before[0], strings.Join(names, " "))}}
}

// problem is what is wrong, for the Node's condition; or "".
func (c *cniConf) problem() string {
	var all []string
	for _, p := range c.conditions() {
		all = append(all, p.Subject+": "+p.Message)
	}
	return strings.Join(all, "; ")
}
