package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/felix/state"
	"github.com/manx-cni/manx/internal/config"
	"github.com/manx-cni/manx/internal/datastore"
	"github.com/manx-cni/manx/internal/status"
)

// settingConditions are what keeps a node from being ready because of what its settings
// ask for.
func settingConditions(node string, set config.Dataplane, s *datastore.Snapshot) []state.Condition {
	return slices.Concat(notEncrypted(node, set, s), refusedSettings(node, set, s))
}

// refusedSettings are the settings that api/settings refuses for a node: what they ask
// for is a matter of safety, or of who reaches whom, and does not happen. Encryption is
// notEncrypted's, and a pool's settings keep the pool from being ready.
func refusedSettings(node string, set config.Dataplane, s *datastore.Snapshot) (out []state.Condition) {
	for _, o := range s.WithoutEffect(node) {
		for _, f := range settings.Grave(o.Findings) {
			elsewhere := o.Kind == "IPPool" || strings.HasPrefix(f.Field, "spec.wireguardEnabled")
			if elsewhere || f.Field == "spec.defaultEndpointToHostAction" && set.HostOpen {
				continue
			}
			out = append(out, state.Condition{Kind: state.SettingRefused, Subject: o.String(), Message: f.String()})
		}
	}
	return out
}

// warnRefused logs what settingConditions says when it is new.
func (a *Agent) warnRefused(s *datastore.Snapshot) {
	now := settingConditions(a.node, a.settings.Dataplane, s)
	for _, c := range now {
		if !slices.Contains(a.refused, c) {
			a.log.Warn("not ready because of a setting", "condition", c.Kind, "subject", c.Subject, "why", c.Message)
		}
	}
	a.refused = now
}

// maxSettingText bounds what is said of one object, and maxSettingObjects of how many,
// in bytes and objects.
const (
	maxSettingText    = 700
	maxSettingObjects = 50
)

// settingsStatus is what status says of settings without effect.
func settingsStatus(objects []datastore.ObjectSettings) (out []status.Setting) {
	for i, o := range objects {
		if i == maxSettingObjects {
			out = append(out, status.Setting{Object: fmt.Sprintf("%d more objects", len(objects)-i), Text: "kubectl get events says what of each"})
			break
		}
		s := status.Setting{Object: o.String(), Text: settings.Summary(o.Findings, maxSettingText)}
		for _, f := range o.Findings {
			s.Fields = append(s.Fields, f.Text())
		}
		out = append(out, s)
	}
	return out
}

// How soon the Node's condition on settings follows a change, and how often it is looked
// at again while it says something, in case that something else changed it.
const (
	markSettingsEvery    = time.Second
	recheckSettingsEvery = 5 * time.Minute
)

// maxConditionText bounds the message of the condition, in bytes.
const maxConditionText = 1024

// markSettings keeps the Node's condition ManxSettingsEffective to what is set without
// effect on this node.
func (a *Agent) markSettings(ctx context.Context) error {
	tick := time.NewTicker(markSettingsEvery)
	defer tick.Stop()
	var seen *datastore.Snapshot
	var said corev1.NodeCondition
	var checked time.Time
	for {
		again := said.Status == corev1.ConditionFalse && time.Since(checked) > recheckSettingsEvery
		if s := a.snapshot.Load(); s != nil && (s != seen || again) {
			want := settingsCondition(s.WithoutEffect(a.node))
			if want == said && !again {
				seen = s
			} else if err := a.startup.SetSettingsCondition(ctx, want); err != nil {
				a.errors.add("node condition", err)
			} else {
				said, checked, seen = want, time.Now(), s
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// settingsCondition is the Node's condition as it should be, without times.
func settingsCondition(objects []datastore.ObjectSettings) corev1.NodeCondition {
	c := corev1.NodeCondition{Type: apiv1.ConditionNodeSettings, Status: corev1.ConditionTrue, Reason: apiv1.ReasonSettingsEffective,
		Message: "every setting for this node is acted on"}
	var texts []string
	for _, o := range objects {
		if c.Status == corev1.ConditionTrue {
			c.Status, c.Reason = corev1.ConditionFalse, apiv1.ReasonSettingWithoutEffect
		}
		if len(settings.Grave(o.Findings)) > 0 {
			c.Reason = apiv1.ReasonSettingRefused
		}
		texts = append(texts, o.String()+": "+settings.Summary(o.Findings, maxSettingText))
	}
	if len(texts) > 0 {
		c.Message = settings.Bounded(strings.Join(texts, "; "), maxConditionText)
	}
	return c
}
