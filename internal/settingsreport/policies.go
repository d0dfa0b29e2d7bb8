package settingsreport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"github.com/manx-cni/manx/api/settings"
	apiv1 "github.com/manx-cni/manx/api/v1"
)

// policyKind is a kind of objects that say who may reach whom.
type policyKind struct {
	resource schema.GroupVersionResource
	kind     string
}

// policyKinds are Kubernetes' own, which every cluster has, and those of Calico, whose
// CustomResourceDefinitions are there when the user has brought them.
var policyKinds = []policyKind{
	{schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}, "NetworkPolicy"},
	{apiv1.SchemeGroupVersion.WithResource("networkpolicies"), "NetworkPolicy"},
	{apiv1.SchemeGroupVersion.WithResource("globalnetworkpolicies"), "GlobalNetworkPolicy"},
}

// apiVersion is as in an object.
func (k policyKind) apiVersion() string { return k.resource.GroupVersion().String() }

// policySet are the policies of one namespace; of none for those of the whole cluster.
type policySet struct {
	names []string
	about corev1.ObjectReference // the first of them
}

func (s *policySet) add(k policyKind, m metav1.Object) {
	name := m.GetName()
	if len(s.names) == 0 || name < s.about.Name {
		s.about = corev1.ObjectReference{APIVersion: k.apiVersion(), Kind: k.kind, Namespace: m.GetNamespace(), Name: name, UID: m.GetUID()}
	}
	s.names = append(s.names, name)
}

// maxNamed bounds how many policies are named.
const maxNamed = 3

// text says what is not enforced.
func (s *policySet) text() string {
	slices.Sort(s.names)
	named := s.names
	if len(named) > maxNamed {
		named = append(slices.Clone(named[:maxNamed]), "…")
	}
	what, have := "policy", "has"
	if len(s.names) > 1 {
		what, have = "policies", "have"
	}
	return settings.Bounded(fmt.Sprintf("%d network %s (%s) %s no effect: "+
		"this version of Manx enforces none, and pods are reached as if there were none; "+
		"use a CNI plugin or an agent that enforces policy where you rely on it", len(s.names), what, strings.Join(named, ", "), have), maxNote)
}

// tellPolicies says in every namespace that has NetworkPolicies that they have no effect.
func (r *Reporter) tellPolicies(ctx context.Context) error {
	sets, err := r.policySets(ctx)
	if err != nil {
		return err
	}
	var errs []error
	spoken := map[string]bool{}
	for _, namespace := range slices.Sorted(maps.Keys(sets)) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s := sets[namespace]
		if !r.spoken[namespace] {
			// One Event in a namespace, whatever comes and goes of them, while there are some.
			if err := r.raise(ctx, s.about, "NetworkPolicyNotEnforced", s.text(), namespace); err != nil {
				errs = append(errs, err)
				continue
			}
			r.Log.Warn("network policies without effect", "namespace", namespace, "note", s.text())
		}
		spoken[namespace] = true
	}
	r.spoken = spoken
	each(r.namespaces, func(n *kept[corev1.NamespaceCondition]) {
		if ctx.Err() == nil {
			errs = append(errs, r.setCondition(ctx, n, sets[n.Name]))
		}
	})
	return errors.Join(errs...)
}

// policySets are the policies by namespace.
type policySets map[string]*policySet

func (s policySets) add(k policyKind, m metav1.Object) {
	if s[m.GetNamespace()] == nil {
		s[m.GetNamespace()] = &policySet{}
	}
	s[m.GetNamespace()].add(k, m)
}

// list adds those of a kind that need not be there.
func (s policySets) list(ctx context.Context, client metadata.Interface, k policyKind) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := client.Resource(k.resource).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", k.resource.GroupResource(), err)
	}
	for i := range list.Items {
		s.add(k, &list.Items[i])
	}
	return nil
}

// policySets collects the policies that there are.
func (r *Reporter) policySets(ctx context.Context) (policySets, error) {
	sets := policySets{}
	each(r.policies, func(p *kept[struct{}]) { sets.add(policyKinds[0], p) })
	for _, k := range policyKinds[1:] {
		if err := sets.list(ctx, r.Metadata, k); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// setCondition brings a namespace's condition to what it should be.
func (r *Reporter) setCondition(ctx context.Context, n *kept[corev1.NamespaceCondition], s *policySet) error {
	var change any
	switch has := n.value.Type != ""; {
	case s == nil && !has:
		return nil
	case s == nil:
		change = map[string]any{"type": apiv1.ConditionNamespacePolicy, "$patch": "delete"}
	default:
		want := corev1.NamespaceCondition{
			Type: apiv1.ConditionNamespacePolicy, Status: corev1.ConditionFalse, Reason: "NoPolicyEngine", Message: s.text(),
		}
		want.LastTransitionTime = n.value.LastTransitionTime
		if n.value == want {
			return nil
		}
		if !has {
			want.LastTransitionTime = metav1.NewTime(time.Now().Truncate(time.Second))
		}
		change = want
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []any{change}}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err = r.Kubernetes.CoreV1().Namespaces().Patch(ctx, n.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set %s of namespace %s: %w", apiv1.ConditionNamespacePolicy, n.Name, err)
	}
	return nil
}
