package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	manx "github.com/manx-cni/manx/internal/version"
)

// ipamName is the other name of the binary: what ipam.type points at.
const ipamName = "manx-ipam"

// Main runs the verb that the environment asks for, prints the answer and, on
// error, exits. program is argv[0].
func Main(program string) {
	versions := version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")
	if filepath.Base(program) == ipamName {
		skel.PluginMainFuncs(skel.CNIFuncs{Add: refuseIPAM, Del: refuseIPAM, Check: refuseIPAM, GC: refuseIPAM, Status: refuseIPAM},
			versions, "CNI IPAM plugin manx-ipam "+manx.String())
		return
	}
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		versions, "CNI plugin manx "+manx.String())
}

// refuseIPAM answers whoever runs manx-ipam as a plugin of its own.
func refuseIPAM(*skel.CmdArgs) error {
	return types.NewError(types.ErrInvalidNetworkConfig,
		`manx-ipam assigns no addresses by itself: the plugin "manx" gets them from the node's agent; `+
			`use ipam.type "manx-ipam" only below type "manx"`, "")
}

// trace prints how long the steps of a verb took, when asked to.
type trace struct {
	on    bool
	start time.Time
	last  time.Time
	text  []byte
}

func newTrace(verb string, conf *NetConf) *trace {
	if !conf.Debug {
		return &trace{}
	}
	now := time.Now()
	return &trace{on: true, start: now, last: now, text: fmt.Appendf(nil, "manx %s:", verb)}
}

// step notes the time since the last one.
func (t *trace) step(what string) {
	if !t.on {
		return
	}
	now := time.Now()
	t.text = fmt.Appendf(t.text, " %s %dµs", what, now.Sub(t.last).Microseconds())
	t.last = now
}

func (t *trace) end() {
	if t.on {
		fmt.Fprintf(os.Stderr, "%s; in all %dµs\n", t.text, time.Since(t.start).Microseconds())
	}
}
