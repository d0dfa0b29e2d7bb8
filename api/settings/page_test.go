package settings_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manx-cni/manx/api/settings"
)

var update = flag.Bool("update", false, "write docs/reference/objects.md and cni.md")

const generated = "<!-- Generated from api/settings; change it there and run: make generate -->\n"

// TestObjectsPage and TestCNIPage keep the reference pages as the tables are.
func TestObjectsPage(t *testing.T) { page(t, "objects.md", objectsPage()) }
func TestCNIPage(t *testing.T)     { page(t, "cni.md", cniPage()) }

func page(t *testing.T, name, want string) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "reference", name)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale; run: make generate", path)
	}
}

func objectsPage() string {
	var b strings.Builder
	b.WriteString(`# Settings of objects

` + generated + `
What Manx does with each field of Calico's objects. All are stored and come back as they were.

- **acted on**: what it asks for happens.
- **refused**: the node or the pool is not ready while it is set, or the pod is not started: ` +
		`going on as if nothing had been said would be a matter of
  safety, or of who reaches whom.
- **no effect**: nothing follows from it. Where a value is given, that one asks for what happens anyway, and only others are reported.

What is set and has no effect is told in these places, and everything there goes when the setting does:

| where | what | by |
|---|---|---|
| an Event ` + "`SettingWithoutEffect`" + ` or ` + "`SettingRefused`" +
		` on the object | its fields, once after each change of what is said | manx-controllers; of a pod, the agent of its node |
| the condition ` + "`SettingsEffective`" + ` of an IPPool | its fields | manx-controllers |
| the condition ` + "`ManxSettingsEffective`" + ` of every Node | what is without effect on this node, of all objects | the node's agent |
| ` + "`manxctl status`" + ` | every field, by object | the agents; manxctl itself where it reads the Kubernetes API |
`)
	for _, k := range settings.Kinds {
		fmt.Fprintf(&b, "\n## %s\n\n", k.Kind)
		if k.Record {
			b.WriteString("Written by programs, and not for users to set.\n\n")
		}
		if len(k.Only) > 0 {
			fmt.Fprintf(&b, "Only the object `%s` is read.\n\n", strings.ReplaceAll(strings.Join(k.Only, "`, or `"), "node.", "node.NODE"))
		}
		table(&b, "field", k.Entries)
		if len(k.Calico) > 0 {
			fmt.Fprintf(&b, "\nFields of Calico's that are stored and have no effect: `%s`. "+
				"Any other field is named as unknown, with the nearest known name.\n", strings.Join(k.Calico, "`, `"))
		}
	}
	b.WriteString("\n## Kinds that are not there\n\n" +
		"The CustomResourceDefinitions of Calico's policy (Tier, NetworkPolicy, GlobalNetworkPolicy, their staged forms, " +
		"NetworkSet, GlobalNetworkSet,\n" +
		"HostEndpoint) are not installed: this version of Manx has no policy, and the API server refuses such an object, " +
		"which `calicoctl apply` says of\n" +
		"the Tier that it looks for first. Kubernetes' own NetworkPolicies are accepted by every cluster and not enforced; " +
		"a namespace that has some gets an\n" +
		"Event and the condition `ManxNetworkPolicyEnforced=False`.\n")
	b.WriteString("\n## Annotations of pods\n\n" +
		"Those of pools may stand on the namespace too. A pod with one that is refused is not started, and its Event says why; " +
		"one without effect has an Event.\n\n")
	table(&b, "annotation", settings.PodAnnotations)
	b.WriteString("\n## Annotations of Nodes\n\n")
	table(&b, "annotation", settings.NodeAnnotations)
	b.WriteString("\n## Annotations of IPAMHandles\n\nWritten by programs, and not for users to set.\n\n")
	table(&b, "annotation", settings.HandleAnnotations)
	b.WriteString("\n## Annotations of IPPools\n\n")
	table(&b, "annotation", settings.PoolAnnotations)
	return b.String()
}

func cniPage() string {
	var b strings.Builder
	b.WriteString(`# Keys of the CNI configuration

` + generated + `
Manx's entry in the CNI configuration takes Calico's keys, so that an existing configuration can be carried over. ` +
		`A bad value fails the request with the
key, the value and what is accepted. Keys that neither Manx, Calico nor the CNI specification has are named, with the nearest known name.

`)
	table(&b, "key", settings.CNIKeys)
	return b.String()
}

// table writes entries as rows.
func table(b *strings.Builder, what string, entries []settings.Entry) {
	fmt.Fprintf(b, "| %s | effect | |\n|---|---|---|\n", what)
	for _, e := range entries {
		effect := string(e.Effect)
		if len(e.Quiet) > 0 && e.Quiet[0] != settings.Any {
			effect += ", except `" + strings.Join(e.Quiet, "`, `") + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", e.Name, effect, strings.ReplaceAll(e.Why, "|", `\|`))
	}
}
