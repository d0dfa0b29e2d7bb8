//go:build cluster

package admission

import (
	"net/netip"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
)

func itoa(i int) string { return strconv.Itoa(i) }

// creating is the creation of a block made from an existing one.
func creating(cfg *rest.Config, from, what string, admin *rest.Config, change func(o *unstructured.Unstructured)) attack {
	return attack{what, func(t *testing.T) error {
		o := get(t, admin, v1.PluralIPAMBlocks, from)
		o.SetResourceVersion("")
		o.SetUID("")
		change(o)
		_, err := objects(cfg, v1.PluralIPAMBlocks).Create(t.Context(), o, metav1.CreateOptions{DryRun: dry})
		return err
	}}
}

// emptied makes a block one without addresses in use.
func emptied(t *testing.T, o *unstructured.Unstructured, cidr, name, affinity string) {
	o.SetName(name)
	set(t, o, cidr, "spec", "cidr")
	set(t, o, affinity, "spec", "affinity")
	n := len(field[[]any](t, o, "spec", "allocations"))
	set(t, o, make([]any, n), "spec", "allocations")
	free := make([]any, n)
	for i := range free {
		free[i] = int64(i)
	}
	set(t, o, free, "spec", "unallocated")
	set(t, o, []any{}, "spec", "attributes")
}

// abandon gives an object an owner that does not exist: the garbage collector deletes it.
func abandon(o *unstructured.Unstructured) {
	o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "5a6f3c1e-0000-4000-8000-000000000000"}})
}

// onOthers attacks the affinities and handles of the blocks that onBlocks has made.
func onOthers(t *testing.T, admin *rest.Config) []attack {
	cfg := agent(t, admin, "node-a")
	block := netip.MustParsePrefix("10.8.0.0/26")
	affinity := func(what string, change func(o *unstructured.Unstructured)) attack {
		return updating(admin, cfg, v1.PluralBlockAffinities, v1.AffinityName("node-b", block), what, change)
	}
	claims := func(what, name, node string) attack {
		return attack{what, func(t *testing.T) error {
			o := get(t, admin, v1.PluralBlockAffinities, v1.AffinityName("node-b", block))
			o.SetResourceVersion("")
			o.SetUID("")
			o.SetName(name)
			set(t, o, node, "spec", "node")
			set(t, o, "10.8.64.0/26", "spec", "cidr")
			_, err := objects(cfg, v1.PluralBlockAffinities).Create(t.Context(), o, metav1.CreateOptions{DryRun: dry})
			return err
		}}
	}
	handle := func(what string, change func(o *unstructured.Unstructured)) attack {
		return updating(admin, cfg, v1.PluralIPAMHandles, "own-1-node-b", what, change)
	}
	return []attack{
		affinity("make another's affinity its own", func(o *unstructured.Unstructured) { set(t, o, "node-a", "spec", "node") }),
		affinity("make another's affinity pending", func(o *unstructured.Unstructured) { set(t, o, "pending", "spec", "state") }),
		affinity("mark another's affinity as deleted at once", func(o *unstructured.Unstructured) {
			set(t, o, "true", "spec", "deleted")
			set(t, o, "pendingDeletion", "spec", "state")
		}),
		affinity("make it one for another block", func(o *unstructured.Unstructured) { set(t, o, "10.8.64.0/26", "spec", "cidr") }),
		affinity("hide another's affinity", func(o *unstructured.Unstructured) {
			set(t, o, "pendingDeletion", "spec", "state")
			o.SetLabels(map[string]string{v1.LabelHostnameHash: v1.HostnameHash("node-a")})
		}),
		affinity("have the garbage collector delete another's affinity", func(o *unstructured.Unstructured) {
			set(t, o, "pendingDeletion", "spec", "state")
			abandon(o)
		}),
		deleting(cfg, v1.PluralBlockAffinities, v1.AffinityName("node-b", block), "delete another's affinity"),
		claims("claim a block for another node", "node-b-10-8-64-0-26", "node-b"),
		claims("take the name of another's affinity", "node-b-10-8-64-0-26", "node-a"),
		handle("change another's handle", func(o *unstructured.Unstructured) { set(t, o, map[string]any{}, "spec", "block") }),
		handle("make another's handle its own", func(o *unstructured.Unstructured) {
			o.SetAnnotations(map[string]string{v1.AnnotationHandleNode: "node-a"})
		}),
		handle("make another's handle no node's", func(o *unstructured.Unstructured) { o.SetAnnotations(nil) }),
		handle("mark another's handle as deleted", func(o *unstructured.Unstructured) { set(t, o, true, "spec", "deleted") }),
		deleting(cfg, v1.PluralIPAMHandles, "own-1-node-b", "delete another's handle"),
		{"create a handle for another node", func(t *testing.T) error {
			o := get(t, admin, v1.PluralIPAMHandles, "own-1-node-b")
			o.SetResourceVersion("")
			o.SetUID("")
			o.SetName("forged")
			set(t, o, "forged", "spec", "handleID")
			_, err := objects(cfg, v1.PluralIPAMHandles).Create(t.Context(), o, metav1.CreateOptions{DryRun: dry})
			return err
		}},
	}
}
