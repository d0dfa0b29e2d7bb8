package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/nodeapi"
)

// While datastoreReady is false, requests that assign or release are refused with the
// code for a later try, before anything is done, and what the agent acts on stays what
// it was: objects that are absent in a migration withdraw nothing.
func TestDatastoreLocked(t *testing.T) {
	pool := customObject("IPPool", "p", map[string]any{"cidr": "10.244.0.0/16"})
	lock := func(ready bool) runtime.Object {
		return customObject("ClusterInformation", "default", map[string]any{"datastoreReady": ready})
	}
	n1, n2 := clusterNode("n1", "10.0.0.1/24"), clusterNode("n2", "10.0.0.2/24")
	open := snapshotFrom(t, []runtime.Object{n1, n2}, pool, lock(true))
	migrating := snapshotFrom(t, []runtime.Object{n1}, lock(false))
	a := servingAgent(t, nil, nil)
	a.log = slog.New(slog.DiscardHandler)
	act := func(now *datastore.Snapshot) (unlocked bool) {
		t.Helper()
		s, unlocked := a.heed(now)
		a.snapshot.Store(s)
		return unlocked
	}
	api, r := newPodAPI()
	api.locked = a.locked
	addr := netip.MustParseAddr("10.244.0.5")
	r.held["net.c1"] = []netip.Addr{addr}

	if act(open) || a.locked() {
		t.Error("locked while datastoreReady is true")
	}
	if act(migrating) || !a.locked() {
		t.Error("not locked while datastoreReady is false")
	}
	s := a.snapshot.Load()
	if len(s.Pools) != 1 || len(s.Nodes) != 2 {
		t.Errorf("acts on pools %v and nodes %v while locked, want those of before", s.Pools, s.Nodes)
	}
	var told []string
	for _, c := range a.status().Conditions {
		if c.Type == "DatastoreLocked" {
			told = append(told, c.Message)
		}
	}
	begins(t, "status", told, []string{"ClusterInformation/default: spec.datastoreReady=false: a migration is under way"})
	for what, do := range map[string]func() error{
		"add": func() error {
			_, err := api.Add(t.Context(), nodeapi.AddRequest{Endpoint: testEndpoint, IPv4: true})
			return err
		},
		"del":   func() error { return api.Del(t.Context(), nodeapi.DelRequest{Endpoint: testEndpoint}) },
		"abort": func() error { return api.Abort(t.Context(), nodeapi.AddRequest{Endpoint: testEndpoint}) },
	} {
		var coded *nodeapi.Error
		if err := do(); !errors.As(err, &coded) || coded.Code != nodeapi.CodeTryAgain ||
			!strings.Contains(coded.Msg, "datastoreReady of ClusterInformation default is false") {
			t.Errorf("%s while locked: %v", what, err)
		}
	}
	if len(r.calls) > 0 {
		t.Errorf("done while locked: %v", r.calls)
	}
	// What was assigned before is made ready, and stays so.
	if err := api.Ready(t.Context(), nodeapi.ReadyRequest{Endpoint: testEndpoint}); err != nil {
		t.Errorf("ready while locked: %v", err)
	}

	if act(migrating) {
		t.Error("unlocked by what changes nothing")
	}
	if !act(open) || a.locked() {
		t.Error("locked still")
	}
	r.calls = nil
	if err := api.Del(t.Context(), nodeapi.DelRequest{Endpoint: testEndpoint}); err != nil || !slices.Contains(r.calls, "remove cali1") {
		t.Errorf("afterwards: %v, calls %v", err, r.calls)
	}
}

// An agent that starts while the datastore is locked acts on what it finds first.
func TestStartsWhileLocked(t *testing.T) {
	a := servingAgent(t, nil, nil)
	a.snapshot.Store(nil)
	locked := customObject("ClusterInformation", "default", map[string]any{"datastoreReady": false})
	first := snapshotFrom(t, []runtime.Object{clusterNode("n1", "10.0.0.1/24")},
		customObject("IPPool", "p", map[string]any{"cidr": "10.244.0.0/16"}), locked)
	for i, now := range []*datastore.Snapshot{first, snapshotFrom(t, nil, locked)} {
		s, unlocked := a.heed(now)
		a.snapshot.Store(s)
		if unlocked || !s.Locked || len(s.Pools) != 1 || len(s.Nodes) != 1 {
			t.Errorf("snapshot %d: %+v, unlocked %t", i, s, unlocked)
		}
	}
	if !a.locked() {
		t.Error("not locked")
	}
}
