package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	table "github.com/manx-cni/manx/api/settings"
)

var update = flag.Bool("update", false, "write docs/reference/settings.md anew")

// The page of settings is generated from their definitions:
//
//	go test ./internal/config -run TestSettingsPage -update
func TestSettingsPage(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "reference", "settings.md")
	want := page()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale; run: go test ./internal/config -run TestSettingsPage -update", path)
	}
}

func page() string {
	var b strings.Builder
	b.WriteString(`# Settings of manx-node

<!-- Generated from internal/config; change it there and run: go test ./internal/config -run TestSettingsPage -update -->

manx-node and its init container install-cni are configured by environment variables, set in the DaemonSet. ` +
		`They have Calico's names and values.
The keys of the CNI configuration are in [cni.md](cni.md), the fields of objects and the annotations in [objects.md](objects.md), what
manx-controllers takes in [controllers.md](controllers.md).

- An empty variable counts as not set.
- Names that begin with ` + "`FELIX_`" + ` count in any case, as in Calico: ` +
		"`FELIX_IpInIpMtu` is `FELIX_IPINIPMTU`" + `. Two spellings with different values stop the start.
- A bad value stops the start. All bad values are reported together, each with the variable, its value and what is accepted.
- An unknown variable that starts with ` + "`FELIX_` or `CALICO_`" + ` is ignored and logged once, with the nearest known name.
- A default pool is created only when the cluster has no pool of its family. Afterwards its variables have no effect; when they differ
  from the pool, the log says so and how to change the pool.
`)
	group := ""
	for _, s := range settings {
		if s.group != group {
			group = s.group
			fmt.Fprintf(&b, "\n## %s\n\n| variable | default | accepted | meaning |\n|---|---|---|---|\n", group)
		}
		preset := "–"
		if s.preset != "" {
			preset = "`" + s.preset + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s: %s | %s |\n", s.name, preset, s.kind, cell(s.accepts), cell(s.doc))
	}
	b.WriteString(`
## The CNI plugin's installation

What the init container install-cni reads.

| variable | default | meaning |
|---|---|---|
`)
	for _, v := range table.InstallVariables {
		preset := "–"
		if v.Preset != "" {
			preset = "`" + v.Preset + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.Name, preset, cell(v.Doc))
	}
	b.WriteString(`
## Accepted, no effect

Calico's manifests and users set these. Manx accepts them, so that a manifest can be carried over, and has no use for them. Values other
than the quiet ones are logged as a warning, or stop the start where the table says so.

| variable | quiet values | why it has no effect |
|---|---|---|
`)
	for _, e := range table.Variables {
		quiet := "–"
		if len(e.Quiet) > 0 {
			quiet = "`" + strings.Join(e.Quiet, "`, `") + "`"
		}
		why := e.Why
		if e.Effect == table.Refused {
			why += " (**any other value stops the start**)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", e.Name, quiet, cell(why))
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// One definition per variable, complete, and with a default that parses.
func TestDefinitions(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range settings {
		if s.name == "" || s.group == "" || s.kind == "" || s.accepts == "" || s.doc == "" || s.parse == nil {
			t.Errorf("incomplete: %+v", s)
		}
		if seen[s.name] {
			t.Errorf("%s is defined twice", s.name)
		}
		seen[s.name] = true
		if _, err := s.parse(&Config{}, s.preset); err != nil {
			t.Errorf("default of %s: %v", s.name, err)
		}
	}
	for _, e := range table.Variables {
		if seen[e.Name] {
			t.Errorf("%s is both a setting and without effect", e.Name)
		}
		seen[e.Name] = true
		if e.Effect == table.Refused && len(e.Quiet) == 0 {
			t.Errorf("incomplete: %+v", e)
		}
	}
	if len(settings) > 44 {
		t.Errorf("%d settings; the budget is 44", len(settings))
	}
}
