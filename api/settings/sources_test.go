package settings_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	nodes := slices.Concat(entryNames(settings.NodeAnnotations), entryNames(settings.PoolAnnotations), entryNames(settings.HandleAnnotations))
	for _, tt := range []struct {
		what  string
		found []string
		table []string
		least int
	}{
		{"variables of install-cni", names(source(t, "../../cni-plugin/install/install.go"), `"([A-Z][A-Z0-9]*_[A-Z0-9_]+)"`), install, 9},
		{"keys of the CNI configuration", keysOf(t, "../../cni-plugin/plugin/netconf.go"), entryNames(settings.CNIKeys), 15},
		{"annotations of objects", names(source(t, "../v1/annotations.go"), `Annotation\w+ = "([^"]+)"`), nodes, 7},
		{"annotations of pods", names(source(t, "../../internal/agent/podrequest.go"), `annotation\w+ *= "([^"]+)"`),
			entryNames(settings.PodAnnotations), 5},
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

// keysOf are the texts that a source compares the variable key with.
func keysOf(t *testing.T, path string) (out []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.SwitchStmt)
		if !ok {
			return true
		}
		if tag, ok := s.Tag.(*ast.Ident); !ok || tag.Name != "key" {
			return true
		}
		for _, c := range s.Body.List {
			for _, e := range c.(*ast.CaseClause).List {
				if lit, ok := e.(*ast.BasicLit); ok {
					key, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, key)
				}
			}
		}
		return true
	})
	return out
}

func entryNames(entries []settings.Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}
