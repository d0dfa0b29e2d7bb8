package archtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/manx-cni/manx"

// maxLines is the cap on hand-written files.
const maxLines = 600

// pkg is what go list says about a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Doc          string
	Imports      []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	IgnoredGo    []string `json:"IgnoredGoFiles"`
	Name         string
	Error        *struct{ Err string }
}

func (p pkg) rel() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e",
		"-json=ImportPath,Dir,Doc,Imports,GoFiles,TestGoFiles,XTestGoFiles,IgnoredGoFiles,Name,Error", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			if len(pkgs) < 5 {
				t.Fatalf("go list found only %d packages", len(pkgs))
			}
			return pkgs
		case err != nil:
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// under reports whether path is one of roots or below it.
func under(path string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

// rule forbids imports and says why.
type rule struct {
	// who the rule is for; empty means all but except.
	who, except []string
	// banned import paths: of the module (relative to it) and of others with
	// what is below them, of the standard library alone.
	banned []string
	// allowed are exceptions to banned.
	allowed []string
	why     string
}

var (
	kernel     = []string{"github.com/vishvananda/netlink", "github.com/vishvananda/netns", "felix/nl"}
	kubernetes = []string{"k8s.io/client-go", "internal/datastore"}
	pure       = []string{
		"felix/calc", "felix/mode", "felix/rules", "bgp/peering", "bgp/policy", "bgp/advertise", "bgp/services", "bgp/desired", "bgp/rib",
		"ipam/block", "ipam/pool", "ipam/gc", "internal/delta", "internal/family", "internal/loop", "internal/selector",
	}
)

var rules = []rule{
	{who: []string{"felix"}, banned: []string{"bgp", "ipam", "cni-plugin"},
		why: "subsystems never import one another: values cross in internal/agent"},
	{who: []string{"bgp"}, banned: []string{"felix", "ipam", "cni-plugin"},
		why: "subsystems never import one another: values cross in internal/agent"},
	{who: []string{"ipam"}, banned: []string{"felix", "bgp", "cni-plugin"},
		why: "subsystems never import one another: values cross in internal/agent"},
	{who: []string{"cni-plugin", "cmd/manx"}, banned: []string{"felix", "bgp", "ipam", "k8s.io"},
		why: "the plugin is thin: a socket, a veth, nothing of Kubernetes"},
	{who: []string{"felix", "bgp", "ipam", "cni-plugin", "api"}, banned: []string{"internal/agent", "internal/controllers", "cmd"},
		why: "imports point downwards: nothing imports a composition root"},
	{who: pure, banned: slices.Concat(kernel, kubernetes, []string{"os/exec", "net", "net/http", "syscall", "golang.org/x/sys"}),
		why: "a pure package computes; it talks to no kernel, no network and no API server"},
	{who: []string{"felix/state"}, banned: []string{module}, allowed: []string{"internal/attachment", "internal/family"},
		why: "a leaf imports nothing of the module but the leaves below it"},
	{who: []string{"api"}, banned: []string{"felix", "bgp", "ipam", "internal", "cni-plugin", "cmd"},
		allowed: []string{"internal/nearest"}, why: "a leaf imports nothing of the module but the leaf below it"},
	{who: []string{"felix", "bgp"}, banned: kubernetes, why: "subsystems are given plain values; the API server is internal/datastore's"},
	{except: []string{"bgp/speaker/gobgp", "test"}, banned: []string{"github.com/osrg/gobgp"},
		why: "only bgp/speaker/gobgp knows which BGP library it is"},
	{except: []string{"felix/nl", "cni-plugin/veth", "cni-plugin/internal/nettest", "internal/podnet", "test"},
		banned: []string{"github.com/vishvananda/netlink"},
		why:    "netlink has one door, felix/nl (the plugin and the program that enters pods have their own): it repeats interrupted dumps"},
	{who: []string{
		"internal/attachment", "internal/family", "internal/delta", "internal/loop", "internal/nearest", "internal/progress",
		"internal/testwait",
	}, banned: []string{module}, why: "a leaf imports nothing of the module"},
}

// applies reports whether the rule is for a package.
func (r rule) applies(rel string) bool {
	if under(rel, r.except...) {
		return false
	}
	return len(r.who) == 0 || under(rel, r.who...)
}

// violation returns the first import that breaks the rule.
func (r rule) violation(imports []string) string {
	for _, imp := range imports {
		if slices.ContainsFunc(r.allowed, func(a string) bool { return imp == module+"/"+a }) {
			continue
		}
		for _, b := range r.banned {
			switch {
			case isOurs(b):
				b = module + "/" + b
			case !strings.Contains(b, "."):
				if imp == b { // a standard package; net/netip is not net
					return imp
				}
				continue
			}
			if under(imp, b) {
				return imp
			}
		}
	}
	return ""
}

// isOurs tells a directory of the module from a standard package: "net" and
// "os/exec" are none of ours.
func isOurs(b string) bool {
	top, _, _ := strings.Cut(b, "/")
	return slices.Contains([]string{"api", "bgp", "cmd", "cni-plugin", "felix", "internal", "ipam", "test"}, top)
}

// TestImports checks direct imports: a forbidden arrow is wherever it is drawn.
func TestImports(t *testing.T) {
	for _, p := range list(t) {
		for _, r := range rules {
			if !r.applies(p.rel()) {
				continue
			}
			if imp := r.violation(p.Imports); imp != "" {
				t.Errorf("%s imports %s: %s (docs/architecture.md, Layout)", p.rel(), imp, r.why)
			}
		}
	}
}

// TestRulesBite makes sure that each rule would notice.
func TestRulesBite(t *testing.T) {
	for _, tc := range []struct {
		pkg, imp string
		broken   bool
	}{
		{"felix/route", module + "/bgp", true},
		{"felix/route", module + "/bgp/rib", true},
		{"bgp/rib", module + "/felix/state", true},
		{"ipam", module + "/felix/calc", true},
		{"felix/calc", "net", true},
		{"felix/calc", "net/netip", false},
		{"felix/calc", module + "/felix/nl", true},
		{"felix/route", "github.com/vishvananda/netlink/nl", true},
		{"felix/nl/nltest", "github.com/vishvananda/netlink", false},
		{"cni-plugin/veth", "github.com/vishvananda/netlink", false},
		{"internal/agent", module + "/felix", false},
		{"internal/agent", "github.com/osrg/gobgp/v4/pkg/server", true},
		{"bgp/speaker", "github.com/osrg/gobgp/v4/pkg/server", true},
		{"bgp/speaker/gobgp", "github.com/osrg/gobgp/v4/pkg/server", false},
		{"cmd/manx", "k8s.io/client-go/kubernetes", true},
		{"cmd/manx-node", module + "/internal/agent", false},
		{"felix/state", module + "/internal/delta", true},
		{"felix/state", module + "/internal/attachment", false},
		{"internal/attachment", module + "/internal/progress", true},
	} {
		broken := false
		for _, r := range rules {
			broken = broken || r.applies(tc.pkg) && r.violation([]string{tc.imp}) != ""
		}
		if broken != tc.broken {
			t.Errorf("%s importing %s: forbidden %v, want %v", tc.pkg, tc.imp, broken, tc.broken)
		}
	}
}

// TestPackageComments: every package says what it is for.
func TestPackageComments(t *testing.T) {
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue // tests or build-tagged files only
		}
		doc := strings.TrimSpace(p.Doc)
		if doc == "" {
			t.Errorf("%s has no package comment: say what it owns and how it is used", p.rel())
			continue
		}
		if p.Name != "main" && !strings.HasPrefix(doc, "Package "+p.Name+" ") {
			t.Errorf("%s: its comment starts with %q, want %q", p.rel(), strings.SplitN(doc, "\n", 2)[0], "Package "+p.Name+" …")
		}
	}
}

// TestFileSizes counts lines of hand-written files.
func TestFileSizes(t *testing.T) {
	for _, p := range list(t) {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles, p.IgnoredGo) {
			path := filepath.Join(p.Dir, name)
			n, err := lines(path)
			if err != nil {
				t.Error(err)
				continue
			}
			if n > maxLines && !generated(path) {
				t.Errorf("%s/%s has %d lines, more than %d: split it by concern", p.rel(), name, n, maxLines)
			}
		}
	}
}

func lines(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n := 0
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		n++
	}
	if err := s.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

func generated(path string) bool {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		return false
	}
	for _, g := range f.Comments {
		if strings.Contains(g.Text(), "DO NOT EDIT") {
			return true
		}
	}
	return false
}
