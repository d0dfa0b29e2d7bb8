package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/insist"
	"github.com/manx-cni/manx/internal/startup"
)

// fightTime is how long another program wants something else in these tests, and maxWrites
// how often that may be set back then: 1, 2, 4 … 32 s, and once a minute.
const (
	fightTime = 30 * time.Minute
	maxWrites = 40
)

// A program that deletes what a node says of its pools, at once and for ever, sees it set
// again a bounded number of times, and it stays when that gives up.
func TestModesAreNotFoughtOver(t *testing.T) {
	inLab(t, apiv1.EncapAlways, func(t *testing.T, l *lab) {
		l.settled(state.IPIPAlways)
		m := l.members[0]
		deleted := 0
		for end := time.Now().Add(fightTime); time.Now().Before(end); l.pass(50 * time.Millisecond) {
			l.mu.Lock()
			if _, there := m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr]; there {
				delete(m.annotations, apiv1.AnnotationNodeIPIPTunnelAddr)
				deleted++
				l.tellAll()
			}
			l.mu.Unlock()
		}
		if deleted < 10 || deleted > maxWrites {
			t.Errorf("said %d times in %s", deleted, fightTime)
		}
		l.arriveWithin(2*insist.Most, m)
	})
}

// arriveWithin waits until a member says how it sends.
func (l *lab) arriveWithin(within time.Duration, m *member) {
	l.t.Helper()
	l.wait(within, "it is said again", func() bool { return m.annotations[apiv1.AnnotationNodeIPIPTunnelAddr] != "" })
}

// fakeNode is a Node that others may write too.
type fakeNode struct {
	own    datastore.Own
	writes int
	fail   error
	said   []string
}

func (f *fakeNode) marker() *nodeMarker {
	return &nodeMarker{
		say: func(component string, err error) { f.said = append(f.said, component+": "+err.Error()) },
		restore: func(context.Context, startup.Result) (bool, error) {
			f.writes++
			return true, f.fail
		},
		set: func(_ context.Context, status corev1.ConditionStatus, reason, message string) error {
			f.writes++
			if f.fail == nil {
				f.own.Unavailable = datastore.NodeCondition{Status: status, Reason: reason, Message: message}
			}
			return f.fail
		},
	}
}

// The Node's condition is set again when others change it, ever more seldom when they go
// on; a change of our own is written at once.
func TestConditionIsAssertedWithABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := nodeMark{corev1.ConditionFalse, apiv1.ReasonNodeNetworkUp, startup.MessageUp}
		down := nodeMark{corev1.ConditionTrue, apiv1.ReasonNodeNoBGPSession, "no session"}
		f := &fakeNode{}
		m := f.marker()
		look := func(want nodeMark) { m.look(t.Context(), f.own, startup.Result{}, want, false, time.Now()) }
		look(nodeMark{})
		look(up)
		look(up)
		if f.writes != 1 || !up.says(f.own) {
			t.Fatalf("%d writes, %+v", f.writes, f.own)
		}
		time.Sleep(insist.Calm) //nolint:forbidigo // the bubble's clock
		f.own.Unavailable = datastore.NodeCondition{Status: corev1.ConditionTrue, Reason: "CalicoIsDown"}
		look(up)
		if f.writes != 2 || !up.says(f.own) {
			t.Errorf("changed by another after a calm time: %d writes, %+v", f.writes, f.own)
		}
		f.writes = 0
		for end := time.Now().Add(fightTime); time.Now().Before(end); time.Sleep(markEvery) { //nolint:forbidigo // the bubble's clock
			f.own.Unavailable = datastore.NodeCondition{Status: corev1.ConditionTrue, Reason: "CalicoIsDown"}
			look(up)
		}
		if f.writes < 10 || f.writes > maxWrites || len(f.said) == 0 {
			t.Errorf("%d writes in %s, said %q", f.writes, fightTime, f.said)
		}
		f.own.Unavailable.Status = corev1.ConditionFalse
		f.writes = 0
		look(down)
		if f.writes != 1 || !down.says(f.own) {
			t.Errorf("what the node has to say now waits for the end of the fight: %d writes, %+v", f.writes, f.own)
		}
		// An API server that refuses is asked as seldom.
		f.fail, f.writes = errors.New("no"), 0
		for end := time.Now().Add(fightTime); time.Now().Before(end); time.Sleep(markEvery) { //nolint:forbidigo // the bubble's clock
			f.own.Unavailable = datastore.NodeCondition{}
			m.look(t.Context(), f.own, startup.Result{}, down, true, time.Now())
		}
		if f.writes < 20 || f.writes > 2*maxWrites {
			t.Errorf("%d writes of two things in %s", f.writes, fightTime)
		}
	})
}
