package v1_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	v1 "github.com/manx-cni/manx/api/v1"
)

const crds = "../../manifests/crds"

// crd is what the tests look at of a CustomResourceDefinition.
type crd struct {
	Metadata struct{ Name string }
	Spec     struct {
		Group, Scope string
		Names        struct {
			Kind, ListKind, Plural, Singular string
			Categories                       []string
		}
		Versions []struct {
			Name                     string
			Served, Storage          bool
			Subresources             map[string]any
			AdditionalPrinterColumns []struct{ Name string }
			Schema                   struct {
				OpenAPIV3Schema schema `json:"openAPIV3Schema"`
			}
		}
	}
}

type schema struct {
	Type       string
	Minimum    *int
	Maximum    *int
	Nullable   bool
	Required   []string
	Properties map[string]schema
	Items      *schema
	Preserve   bool `json:"x-kubernetes-preserve-unknown-fields"`
}

func readCRD(t *testing.T, plural string) crd {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(crds, v1.GroupName+"_"+plural+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var c crd
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCRDs compares the generated CRDs with the table of kinds and with the
// fields that Calico's schemas require.
func TestCRDs(t *testing.T) {
	required := map[string][]string{
		v1.PluralIPPools:         {"cidr"},
		v1.PluralIPAMBlocks:      {"allocations", "attributes", "cidr", "strictAffinity", "unallocated"},
		v1.PluralBlockAffinities: {"cidr", "deleted", "node", "state"},
		v1.PluralIPAMHandles:     {"block", "handleID"},
		v1.PluralIPAMConfigs:     {"autoAllocateBlocks", "strictAffinity"},
	}
	files, err := filepath.Glob(filepath.Join(crds, "*.yaml"))
	if err != nil || len(files) != len(v1.Kinds) {
		t.Errorf("%d CRDs for %d kinds (%v)", len(files), len(v1.Kinds), err)
	}
	for _, k := range v1.Kinds {
		c := readCRD(t, k.Plural)
		n := c.Spec.Names
		if c.Metadata.Name != k.Plural+"."+v1.GroupName || n.Kind != k.Kind || n.ListKind != k.Kind+"List" ||
			n.Plural != k.Plural || c.Spec.Scope != "Cluster" || !slices.Equal(n.Categories, []string{"manx"}) {
			t.Errorf("%s: %+v", k.Kind, c.Spec)
		}
		if len(c.Spec.Versions) != 1 || c.Spec.Versions[0].Name != "v1" || !c.Spec.Versions[0].Storage {
			t.Fatalf("%s: versions %+v", k.Kind, c.Spec.Versions)
		}
		v := c.Spec.Versions[0]
		if cols := v.AdditionalPrinterColumns; len(cols) == 0 || cols[len(cols)-1].Name != "Age" {
			t.Errorf("%s: the last column is not Age: %v", k.Kind, cols)
		}
		spec := v.Schema.OpenAPIV3Schema.Properties["spec"]
		if spec.Type != "object" || !slices.Equal(spec.Required, required[k.Plural]) {
			t.Errorf("%s: requires %v, want %v", k.Kind, spec.Required, required[k.Plural])
		}
		if spec.Preserve != slices.Contains([]string{v1.PluralFelixConfigurations, v1.PluralKubeControllersConfigurations}, k.Plural) {
			t.Errorf("%s: preserves unknown fields: %v", k.Kind, spec.Preserve)
		}
		if _, status := v.Subresources["status"]; status != slices.Contains([]string{
			v1.PluralCalicoNodeStatuses, v1.PluralIPPools, v1.PluralKubeControllersConfigurations,
		}, k.Plural) {
			t.Errorf("%s: status subresource: %v", k.Kind, status)
		}
	}
	allocations := readCRD(t, v1.PluralIPAMBlocks).Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["allocations"]
	if allocations.Items == nil || !allocations.Items.Nullable {
		t.Error("the items of an IPAMBlock's allocations are not nullable")
	}
	affinity := readCRD(t, v1.PluralBlockAffinities).Spec.Versions[0].Schema.OpenAPIV3Schema
	if d := affinity.Properties["spec"].Properties["deleted"]; d.Type != "string" {
		t.Errorf("a BlockAffinity's deleted is a %s, want a string", d.Type)
	}
	mtu := readCRD(t, v1.PluralFelixConfigurations).Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["ipipMTU"]
	if mtu.Minimum == nil || *mtu.Minimum != 0 || mtu.Maximum == nil || *mtu.Maximum != 65535 {
		t.Errorf("a FelixConfiguration's ipipMTU may be anything: %+v", mtu)
	}
}

// TestKinds checks that the table is sorted and that each entry makes objects of
// its kind.
func TestKinds(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(v1.Kinds, func(a, b v1.Kind) int { return strings.Compare(a.Plural, b.Plural) }) {
		t.Error("not sorted by plural name")
	}
	for _, k := range v1.Kinds {
		for want, o := range map[string]runtime.Object{k.Kind: k.New(), k.Kind + "List": k.List()} {
			kinds, _, err := scheme.ObjectKinds(o)
			if err != nil || len(kinds) != 1 || kinds[0] != v1.SchemeGroupVersion.WithKind(want) {
				t.Errorf("%s: scheme says %v, %v", want, kinds, err)
			}
		}
		if k.Resource().String() != v1.GroupName+"/v1, Resource="+k.Plural {
			t.Errorf("%s: resource %s", k.Kind, k.Resource())
		}
	}
}

// TestRequiredFieldsAreWritten shows that what the schemas require is there in
// the JSON even when it is empty.
func TestRequiredFieldsAreWritten(t *testing.T) {
	for _, c := range []struct {
		object any
		want   string
	}{
		{v1.IPAMBlockSpec{CIDR: "10.0.0.0/32", Allocations: []*int{nil}, Unallocated: []int{}, Attributes: []v1.AllocationAttribute{}},
			`{"cidr":"10.0.0.0/32","strictAffinity":false,"allocations":[null],"unallocated":[],"attributes":[],"sequenceNumber":0}`},
		{v1.BlockAffinitySpec{Deleted: "false"}, `{"state":"","node":"","cidr":"","deleted":"false"}`},
		{v1.IPAMHandleSpec{Block: map[string]int{}}, `{"handleID":"","block":{}}`},
		{v1.IPAMConfigSpec{}, `{"strictAffinity":false,"autoAllocateBlocks":false}`},
		{v1.IPPoolSpec{}, `{"cidr":""}`},
	} {
		if text, err := json.Marshal(c.object); err != nil || string(text) != c.want {
			t.Errorf("got %s (%v)\nwant %s", text, err, c.want)
		}
	}
}

// TestWideColumns checks that kubectl shows who owns a block and who has its
// addresses, and how full a pool is.
func TestWideColumns(t *testing.T) {
	for plural, want := range map[string][]string{
		v1.PluralIPAMBlocks:      {"CIDR", "Owner", "Claimed", "Sequence", "Holders", "Age"},
		v1.PluralBlockAffinities: {"Node", "CIDR", "State", "Type", "Age"},
		v1.PluralIPPools: {"CIDR", "IPIP", "VXLAN", "NAT", "Disabled",
			"Ready", "Selector", "Blocks", "Addresses", "Capacity", "Use", "Age"},
	} {
		var got []string
		for _, c := range readCRD(t, plural).Spec.Versions[0].AdditionalPrinterColumns {
			got = append(got, c.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: columns %v, want %v", plural, got, want)
		}
	}
}
