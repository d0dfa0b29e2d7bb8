package settings_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/manx-cni/manx/api/settings"
)

func source(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// names are what the first group of re matches in a source.
func names(text string, re string) (out []string) {
	for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

// What other packages read by name is in the tables.
func TestNamesInTheSourcesHaveEntries(t *testing.T) {
	var install []string
	for _, v := range settings.InstallVariables {
		install = append(install, v.Name)
	}
	nodes := append(entryNames(settings.NodeAnnotations), entryNames(settings.PoolAnnotations)...)
	for _, tt := range []struct {
		what  string
		found []string
		table []string
		least int
	}{
		{"variables of install-cni", names(source(t, "../../cni-plugin/install/install.go"), `"([A-Z][A-Z0-9]*_[A-Z0-9_]+)"`), install, 9},
		{"keys of the CNI configuration", names(source(t, "../../cni-plugin/plugin/netconf.go"), `case "([a-zA-Z0-9_./-]+)":`), entryNames(settings.CNIKeys), 12},
		{"annotations of objects", names(source(t, "../v1/annotations.go"), `Annotation\w+ = "([^"]+)"`), nodes, 7},
		{"annotations of pods", names(source(t, "../../internal/agent/podrequest.go"), `annotation\w+ *= "([^"]+)"`), entryNames(settings.PodAnnotations), 5},
	} {
		if len(tt.found) < tt.least {
			t.Errorf("%s: only %v found in the source", tt.what, tt.found)
		}
		for _, name := range tt.found {
			if !slices.Contains(tt.table, name) {
				t.Errorf("%s: %s has no entry in api/settings", tt.what, name)
			}
		}
	}
}

func entryNames(entries []settings.Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}
