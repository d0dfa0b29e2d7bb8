package agent

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/insist"
	"github.com/manx-cni/manx/internal/startup"
)

// markEvery is how often it is looked whether the Node says what it should.
const markEvery = time.Second

// nodeMark is what this node's Node should say of its network. The zero value leaves
// what it says as it is.
type nodeMark struct {
	status          corev1.ConditionStatus
	reason, message string
}

// says reports whether a Node says that.
func (m nodeMark) says(own datastore.Own) bool {
	return m.status == "" || own.Unavailable == datastore.NodeCondition{Status: m.status, Reason: m.reason, Message: m.message}
}

// mark is what the Node should say now.
func (a *Agent) mark() nodeMark {
	unavailable := func(reason, message string) nodeMark {
		return nodeMark{corev1.ConditionTrue, reason, startup.ConditionMessage(message)}
	}
	if why := a.modes.unavailable(); why != "" {
		return unavailable(apiv1.ReasonNodeIPIPUnavailable, why)
	}
	if why := a.cniConf.problem(); why != "" {
		return unavailable(apiv1.ReasonNodeCNIConfig, why)
	}
	if why := a.alone.Load(); why != nil && *why != "" {
		return unavailable(apiv1.ReasonNodeNoBGPSession, *why)
	}
	if a.dataplane.Ready() == nil {
		return nodeMark{corev1.ConditionFalse, apiv1.ReasonNodeNetworkUp, startup.MessageUp}
	}
	return nodeMark{}
}

// markNode keeps what the Node object says true: its condition NetworkUnavailable to
// what this node can, and its address. It goes by what the API says, not by what was
// written once: the kubelet of a Node that was deleted makes another, and others may
// write the same fields. Set again is what differs, ever more seldom when it keeps
// differing.
func (a *Agent) markNode(ctx context.Context) error {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	m := nodeMarker{say: a.errors.add, restore: a.startup.Restore, set: a.startup.SetNetworkUnavailable}
	var i isolation
	var sessions sessionEvents
	var shutOuts shutOutEvents
	event := func(reason, note string) { a.datastore.NodeEvent(a.node, reason, note) }
	for {
		a.lookIsolated(&i)
		now := a.speaker.Status().Sessions
		sessions.look(now, time.Now(), event)
		shutOuts.look(now, event)
		if own, ok := a.datastore.Own(); ok {
			m.look(ctx, own, a.identity, a.mark(), a.startup.Differs(own.Annotations, a.identity), time.Now())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// nodeMarker remembers when the Node was written.
type nodeMarker struct {
	say     func(component string, err error)
	restore func(context.Context, startup.Result) (bool, error)
	set     func(ctx context.Context, status corev1.ConditionStatus, reason, message string) error

	address, condition insist.Insistence
	wanted             nodeMark // last time
}

// look writes what the Node does not say, if it may be written now.
func (m *nodeMarker) look(ctx context.Context, own datastore.Own, self startup.Result, want nodeMark, differs bool, now time.Time) {
	if differs && m.address.May(now) {
		_, err := m.restore(ctx, self)
		m.done("node address", "its address annotations", m.address, err)
	}
	if want != m.wanted { // our own change is no fight
		m.wanted, m.condition = want, insist.Insistence{}
	}
	if !want.says(own) && m.condition.May(now) {
		err := m.set(ctx, want.status, want.reason, want.message)
		m.done("node condition", fmt.Sprintf("its condition %s=%s", corev1.NodeNetworkUnavailable, want.status), m.condition, err)
	}
}

func (m *nodeMarker) done(component, what string, i insist.Insistence, err error) {
	switch {
	case err != nil:
		m.say(component, err)
	case i.Fought():
		m.say(component, fmt.Errorf("another program changes %s again and again, "+
			"and this agent sets it back: find out what else writes nodes/status (another network plugin, an operator)", what))
	}
}
