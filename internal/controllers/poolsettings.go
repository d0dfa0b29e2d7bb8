package controllers

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	table "github.com/manx-cni/manx/api/settings"
	v1 "github.com/manx-cni/manx/api/v1"
)

// maxConditionText bounds the message of a condition, in bytes.
const maxConditionText = 1024

// settleSettings enters into a pool's status what the pool has set without effect, and
// takes the condition away when that is nothing.
func settleSettings(s *v1.IPPoolStatus, p *v1.IPPool, now metav1.Time) {
	i := slices.IndexFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == v1.ConditionPoolSettings })
	found := settingsOfPool(p)
	if len(found) == 0 {
		if i >= 0 {
			s.Conditions = slices.Delete(s.Conditions, i, i+1)
		}
		return
	}
	c := metav1.Condition{
		Type: v1.ConditionPoolSettings, Status: metav1.ConditionFalse,
		Reason: v1.ReasonSettingWithoutEffect, Message: table.Summary(found, maxConditionText),
		ObservedGeneration: p.Generation, LastTransitionTime: now,
	}
	if len(table.Grave(found)) > 0 {
		c.Reason = v1.ReasonSettingRefused
	}
	if i < 0 {
		s.Conditions = append(s.Conditions, c)
		return
	}
	c.LastTransitionTime = s.Conditions[i].LastTransitionTime
	s.Conditions[i] = c
}

// settingsOfPool are the pool's settings without effect. Fields that the type lacks
// never come this far: the schema drops them.
func settingsOfPool(p *v1.IPPool) []table.Finding {
	k, _ := table.Of(kindPool)
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&p.Spec)
	if err != nil {
		return nil // a struct of plain fields converts
	}
	return k.Findings(map[string]any{"metadata": map[string]any{"name": p.Name}, "spec": spec})
}
