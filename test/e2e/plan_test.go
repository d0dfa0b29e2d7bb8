//go:build cluster

package e2e

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// planned is a test and the kind of lab that it runs on.
type planned struct {
	test string
	kind kind
}

// readPlan reads from the sources which test needs what. The test binary runs in its
// package's directory, as "go test" has it.
func readPlan() (plan []planned, err error) {
	files, err := filepath.Glob("*_test.go")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find the sources of the tests, which say what lab each needs, in the working directory: %d files (%v)",
			len(files), err)
	}
	set := token.NewFileSet()
	for _, name := range files {
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") || fn.Name.Name == "TestMain" {
				continue
			}
			needs, ok, err := needsOf(fn)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", set.Position(fn.Pos()), err)
			}
			if !ok {
				continue // it needs no lab
			}
			k, err := lightest(needs)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", set.Position(fn.Pos()), fn.Name.Name, err)
			}
			plan = append(plan, planned{fn.Name.Name, k})
		}
	}
	return plan, nil
}

// needNames are the constants of type need by their names in the source.
var needNames = map[string]need{
	"kubelet": kubelet, "services": services, "dualStack": dualStack, "ipip": ipip, "crossSubnet": crossSubnet,
	"bird": bird, "frr": frr, "gobgpd": gobgpd, "openbgpd": openbgpd,
}

// needsOf reads the call of onLab with which a test begins.
func needsOf(fn *ast.FuncDecl) (needs []need, ok bool, err error) {
	if len(fn.Body.List) == 0 {
		return nil, false, nil
	}
	statement, isExpr := fn.Body.List[0].(*ast.ExprStmt)
	if !isExpr {
		return nil, false, nil
	}
	call, isCall := statement.X.(*ast.CallExpr)
	if !isCall {
		return nil, false, nil
	}
	if name, isName := call.Fun.(*ast.Ident); !isName || name.Name != "onLab" {
		return nil, false, nil
	}
	for _, arg := range call.Args[1:] {
		name, isName := arg.(*ast.Ident)
		n, known := need(""), false
		if isName {
			n, known = needNames[name.Name]
		}
		if !known {
			return nil, false, fmt.Errorf("%s: onLab takes constants of type need", fn.Name.Name)
		}
		needs = append(needs, n)
	}
	return needs, true, nil
}

// only keeps the tests of the kinds, all when none is named, whose names match the first
// part of a pattern of -test.run.
func only(plan []planned, names []string, pattern string) ([]planned, error) {
	for _, n := range names {
		if _, err := kindNamed(n); err != nil {
			return nil, err
		}
	}
	first, _, _ := strings.Cut(pattern, "/")
	re, err := regexp.Compile(first)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(plan), func(p planned) bool {
		return len(names) > 0 && !slices.Contains(names, p.kind.name) || !re.MatchString(p.test)
	}), nil
}

// labless are the tests that need no lab, as far as a pattern of -test.run has them: they
// run beside those of any kind of lab.
func labless(selection string) []planned {
	first, _, _ := strings.Cut(selection, "/")
	if regexp.MustCompile(first).MatchString("TestPlan") { // only has compiled it
		return []planned{{test: "TestPlan"}}
	}
	return nil
}

// pattern is what -test.run has for just these tests.
func pattern(plan []planned) string {
	var names []string
	for _, p := range plan {
		names = append(names, p.test)
	}
	return "^(" + strings.Join(names, "|") + ")$"
}

// TestPlan: every test of a lab says first what it needs, and doc.go has it in its table,
// with the kind of lab that it gets.
func TestPlan(t *testing.T) {
	plan, err := readPlan()
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	doc, err := parser.ParseFile(set, "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{} // test to kind
	current := ""
	for line := range strings.Lines(doc.Doc.Text()) {
		f := strings.Fields(line)
		if current != "" && strings.HasPrefix(line, "# ") {
			break // the table has ended; others say what is tested
		}
		for _, word := range f {
			if _, err := kindNamed(word); err == nil && word == f[0] {
				current = word
			}
			if strings.HasPrefix(word, "Test") && strings.HasPrefix(line, "\t") && current != "" {
				rows[strings.TrimSuffix(word, ",")] = current
			}
		}
	}
	for _, p := range plan {
		if rows[p.test] != p.kind.name {
			t.Errorf("%s runs on the lab %q; the table in doc.go has it under %q", p.test, p.kind.name, rows[p.test])
		}
		delete(rows, p.test)
	}
	for test := range rows {
		t.Errorf("the table in doc.go has %s: there is no such test on a lab", test)
	}
}
