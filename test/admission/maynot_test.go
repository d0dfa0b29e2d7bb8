//go:build cluster

package admission

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	v1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/ipam"
)

// attack is what whoever has the credential of node-a's agent tries, without it being
// made: the API server only judges.
type attack struct {
	what string
	do   func(t *testing.T) error
}

// TestAgentMayNot: nothing of another node's can be changed with a node's credential.
// Without the policies all of it can.
func TestAgentMayNot(t *testing.T) {
	admin := start(t)
	attacks := append(onCluster(t, admin), append(onBlocks(t, admin), onOthers(t, admin)...)...)
	for _, a := range attacks {
		err := a.do(t)
		if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'manx-node-") {
			t.Errorf("%s: %v; want it refused by a policy", a.what, err)
			continue
		}
		if !strings.Contains(err.Error(), "the agent of node node-a ") &&
			!strings.Contains(err.Error(), "already exists") && !strings.Contains(err.Error(), "index out of bounds") {
			t.Errorf("%s: %v; want it to say of what node's agent", a.what, err)
		}
	}
	kube := kubernetes.NewForConfigOrDie(admin)
	bindings := kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	list, err := bindings.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list.Items {
		if err := bindings.Delete(t.Context(), b.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range attacks {
		var err error
		eventually(t, "the policies are gone", func() bool {
			err = a.do(t)
			return err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy")
		})
		if err != nil {
			t.Errorf("control: %s: %v; want it possible without the policies", a.what, err)
		}
	}
}

func onCluster(t *testing.T, admin *rest.Config) []attack {
	podOn(t, admin, "node-b", "of-b")
	cfg := agent(t, admin, "node-a")
	kube := kubernetes.NewForConfigOrDie(cfg)
	creates := func(kind, plural, name string, spec map[string]any) attack {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": v1.SchemeGroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
		}}
		return attack{"create " + kind + " " + name, func(t *testing.T) error {
			_, err := objects(cfg, plural).Create(t.Context(), o, metav1.CreateOptions{DryRun: dry})
			return err
		}}
	}
	reportOn(t, admin, "node-b", "report-b")
	return []attack{
		{"report of another node", func(t *testing.T) error { return report(t, cfg, "report-b") }},
		{"annotate another Node", func(t *testing.T) error { return annotateNode(t, kube, "node-b") }},
		{"annotate another node's Pod", func(t *testing.T) error { return annotatePod(t, kube, "of-b") }},
		creates("IPPool", v1.PluralIPPools, "mine", map[string]any{"cidr": "192.0.2.0/24"}),
		creates("FelixConfiguration", v1.PluralFelixConfigurations, "node.node-b", map[string]any{}),
		creates("BGPConfiguration", v1.PluralBGPConfigurations, "node.node-b", map[string]any{}),
	}
}

// updating is an update of an object as the administrator reads it.
func updating(admin, cfg *rest.Config, plural, name, what string, change func(o *unstructured.Unstructured)) attack {
	return attack{what, func(t *testing.T) error {
		o := get(t, admin, plural, name)
		change(o)
		_, err := objects(cfg, plural).Update(t.Context(), o, metav1.UpdateOptions{DryRun: dry})
		return err
	}}
}

func deleting(cfg *rest.Config, plural, name, what string) attack {
	return attack{what, func(t *testing.T) error {
		return objects(cfg, plural).Delete(t.Context(), name, metav1.DeleteOptions{DryRun: dry})
	}}
}

func field[T any](t *testing.T, o *unstructured.Unstructured, path ...string) T {
	t.Helper()
	v, found, err := unstructured.NestedFieldNoCopy(o.Object, path...)
	if err != nil || !found {
		t.Fatalf("%s: %v %v", o.GetName(), path, err)
	}
	return v.(T)
}

func set(t *testing.T, o *unstructured.Unstructured, value any, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(o.Object, value, path...); err != nil {
		t.Fatal(err)
	}
}

// onBlocks attacks node-b's only block, in which node-a has borrowed an address, and
// node-a's own, in which node-b has.
func onBlocks(t *testing.T, admin *rest.Config) []attack {
	const cidrB, cidrA = "10.8.0.0/26", "10.9.0.0/26"
	for _, c := range []struct{ cidr, owner, guest string }{{cidrB, "node-b", "node-a"}, {cidrA, "node-a", "node-b"}} {
		owner := newAllocator(t, admin, ipam.Config{Node: c.owner}, pool("p", c.cidr, 26))
		owner.assign("own-1-"+c.owner, "own-2-"+c.owner)
		guest := newAllocator(t, admin, ipam.Config{Node: c.guest}, pool("p", c.cidr, 26))
		guest.assign("guest-" + c.guest)
		owner.written()
		guest.written()
		owner.stop()
		guest.stop()
	}
	const cidrEmpty = "10.10.0.0/26"
	idle := newAllocator(t, admin, ipam.Config{Node: "node-b"}, pool("p", cidrEmpty, 26))
	idle.assign("idle")
	idle.release("idle")
	idle.written()
	idle.stop()
	cfg := agent(t, admin, "node-a")
	nameEmpty := v1.BlockName(netip.MustParsePrefix(cidrEmpty))
	nameB, nameA := v1.BlockName(netip.MustParsePrefix(cidrB)), v1.BlockName(netip.MustParsePrefix(cidrA))
	block := func(name, what string, change func(o *unstructured.Unstructured)) attack {
		return updating(admin, cfg, v1.PluralIPAMBlocks, name, what, change)
	}
	// of is the first ordinal of a node, by the attributes; and that node's attribute.
	of := func(o *unstructured.Unstructured, node string) (ordinal int, attribute map[string]any, index int64) {
		attributes := field[[]any](t, o, "spec", "attributes")
		for i, v := range field[[]any](t, o, "spec", "allocations") {
			if v == nil {
				continue
			}
			a := attributes[v.(int64)].(map[string]any)
			if a["secondary"].(map[string]any)["node"] == node {
				return i, a, v.(int64)
			}
		}
		t.Fatalf("%s has no address of %s", o.GetName(), node)
		return 0, nil, 0
	}
	free := func(o *unstructured.Unstructured, node string) {
		i, _, _ := of(o, node)
		field[[]any](t, o, "spec", "allocations")[i] = nil
		set(t, o, append(slices.Clone(field[[]any](t, o, "spec", "unallocated")), int64(i)), "spec", "unallocated")
	}
	return []attack{
		block(nameB, "release another's address in its own block", func(o *unstructured.Unstructured) { free(o, "node-b") }),
		block(nameA, "release an address lent to another", func(o *unstructured.Unstructured) { free(o, "node-b") }),
		block(nameB, "make another's address its own", func(o *unstructured.Unstructured) {
			theirs, _, _ := of(o, "node-b")
			_, _, mine := of(o, "node-a")
			field[[]any](t, o, "spec", "allocations")[theirs] = mine
		}),
		block(nameB, "put its name on another's attribute", func(o *unstructured.Unstructured) {
			_, a, _ := of(o, "node-b")
			a["secondary"].(map[string]any)["node"] = "node-a"
		}),
		block(nameB, "give another's address another handle", func(o *unstructured.Unstructured) {
			_, a, _ := of(o, "node-b")
			a["handle_id"] = "mine"
		}),
		block(nameB, "let another's address cool down", func(o *unstructured.Unstructured) {
			_, a, _ := of(o, "node-b")
			a["releasedAt"] = "2026-01-01T00:00:00Z"
		}),
		block(nameB, "say that another's address was assigned later", func(o *unstructured.Unstructured) {
			i, _, _ := of(o, "node-b")
			field[map[string]any](t, o, "spec", "sequenceNumberForAllocation")[itoa(i)] = int64(7)
		}),
		block(nameB, "turn back the sequence number", func(o *unstructured.Unstructured) { set(t, o, int64(1), "spec", "sequenceNumber") }),
		block(nameB, "take a block in use over", func(o *unstructured.Unstructured) { set(t, o, "host:node-a", "spec", "affinity") }),
		block(nameB, "make a block in use no node's",
			func(o *unstructured.Unstructured) { unstructured.RemoveNestedField(o.Object, "spec", "affinity") }),
		block(nameB, "mark a block in use as deleted", func(o *unstructured.Unstructured) { set(t, o, true, "spec", "deleted") }),
		block(nameB, "have the garbage collector delete a block in use", abandon),
		block(nameB, "keep a block from being deleted", func(o *unstructured.Unstructured) { o.SetFinalizers([]string{"manx.io/mine"}) }),
		block(nameB, "make it another range", func(o *unstructured.Unstructured) { set(t, o, "10.8.64.0/26", "spec", "cidr") }),
		block(nameB, "list an allocated address as free", func(o *unstructured.Unstructured) {
			i, _, _ := of(o, "node-b")
			set(t, o, append(slices.Clone(field[[]any](t, o, "spec", "unallocated")), int64(i)), "spec", "unallocated")
		}),
		block(nameB, "list a free address twice", func(o *unstructured.Unstructured) {
			u := slices.Clone(field[[]any](t, o, "spec", "unallocated"))
			u[1] = u[0]
			set(t, o, u, "spec", "unallocated")
		}),
		block(nameB, "lose the free addresses", func(o *unstructured.Unstructured) { set(t, o, []any{}, "spec", "unallocated") }),
		block(nameEmpty, "make an empty block of another senseless", func(o *unstructured.Unstructured) {
			u := slices.Clone(field[[]any](t, o, "spec", "unallocated"))
			field[[]any](t, o, "spec", "allocations")[u[0].(int64)] = int64(99)
			set(t, o, u[1:], "spec", "unallocated")
		}),
		block(nameB, "cut the block short", func(o *unstructured.Unstructured) {
			set(t, o, slices.Clone(field[[]any](t, o, "spec", "allocations")[:10]), "spec", "allocations")
		}),
		block(nameA, "assign an address in another's name", func(o *unstructured.Unstructured) {
			u := slices.Clone(field[[]any](t, o, "spec", "unallocated"))
			attributes := field[[]any](t, o, "spec", "attributes")
			forged := map[string]any{"handle_id": "forged", "secondary": map[string]any{"node": "node-b"}}
			field[[]any](t, o, "spec", "allocations")[u[0].(int64)] = int64(len(attributes))
			set(t, o, append(slices.Clone(attributes), forged), "spec", "attributes")
			set(t, o, u[1:], "spec", "unallocated")
		}),
		deleting(cfg, v1.PluralIPAMBlocks, nameB, "delete a block in use"),
		deleting(cfg, v1.PluralIPAMBlocks, nameA, "delete its own block, in which another has an address"),
		creating(cfg, nameB, "create a block for another node", admin, func(o *unstructured.Unstructured) {
			emptied(t, o, "10.8.64.0/26", "10-8-64-0-26", "host:node-b")
		}),
		creating(cfg, nameB, "create a block that is not what its name says", admin, func(o *unstructured.Unstructured) {
			emptied(t, o, "10.8.0.0/16", "10-8-64-0-26", "host:node-a")
		}),
		creating(cfg, nameB, "create a block with addresses in use", admin, func(o *unstructured.Unstructured) {
			o.SetName("10-8-64-0-26")
			set(t, o, "10.8.64.0/26", "spec", "cidr")
			set(t, o, "host:node-a", "spec", "affinity")
		}),
	}
}
