package main

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWithNeeds(t *testing.T) {
	all := []step{{name: "a"}, {name: "b", needs: []string{"a"}}, {name: "c", needs: []string{"b"}}, {name: "d"}}
	for _, c := range []struct {
		wanted []string
		want   string
	}{
		{[]string{"c"}, "a b c"}, {[]string{"d", "b"}, "a b d"}, {[]string{"a", "a"}, "a"},
	} {
		got, err := withNeeds(all, slices.Clone(c.wanted))
		if err != nil || strings.Join(names(got), " ") != c.want {
			t.Errorf("withNeeds(%q) is %q, %v; want %s", c.wanted, names(got), err, c.want)
		}
	}
	if _, err := withNeeds(all, []string{"banana"}); err == nil || !strings.Contains(err.Error(), "a, b, c, d") {
		t.Errorf("an unknown step: %v; want the list of those there are", err)
	}
}

// TestEverything: what a step needs is there, and comes before it in the list.
func TestEverything(t *testing.T) {
	t.Chdir("../..")
	all, err := everything()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range all {
		for _, need := range s.needs {
			if !seen[need] {
				t.Errorf("%s needs %s, which is not before it", s.name, need)
			}
		}
		if seen[s.name] {
			t.Errorf("two steps are called %s", s.name)
		}
		seen[s.name] = true
	}
	alone, shared, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	for pkg, races := range map[string]bool{
		"/internal/agent": true, "/ipam": true, "/felix/calc": false, "/test/admission": false, "/bgp/speaker/gobgp": true,
	} {
		full := "github.com/manx-cni/manx" + pkg
		if slices.Contains(shared, full) != races || slices.Contains(alone, full) == races {
			t.Errorf("%s is tested with the race detector: %t, want %t", full, !races, races)
		}
	}
}

// TestServerTests: each test of a file with the tag "cluster" is in a step, and is named.
func TestServerTests(t *testing.T) {
	t.Chdir("../..")
	args, err := serverTests()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/internal/datastore", "/internal/controllers", "/ipam", "/ipam/store/crd", "/test/admission", "/api/v1"} {
		if !slices.Contains(args, "github.com/manx-cni/manx"+want) {
			t.Errorf("%s is not among %q", want, args)
		}
	}
	for _, arg := range args {
		if makesLabs(arg) {
			t.Errorf("%s makes labs", arg)
		}
	}
	if args[0] != "-run" || !strings.HasPrefix(args[1], "^(Test") || strings.Contains(args[1], "TestMain") {
		t.Errorf("arguments %q", args)
	}
}

func TestOutput(t *testing.T) {
	const stream = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"words of A\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB/sub","Output":"words of B\n"}
{"Action":"pass","Package":"p","Test":"TestC/sub"}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"fail","Package":"p","Test":"TestB/sub"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestD"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"output","Package":"p","Test":"TestE","Output":"words of E\n"}
not JSON
`
	var o output
	o.read(strings.NewReader(stream), true, io.Discard)
	if o.passed != 2 || !slices.Equal(o.skipped, []string{"p.TestD"}) {
		t.Errorf("%d passed, skipped %q; want 2 and p.TestD", o.passed, o.skipped)
	}
	why := o.why()
	for _, want := range []string{"--- p.TestB/sub\nwords of B\n", "TestE has not ended\nwords of E\n", "FAIL\n", "not JSON\n"} {
		if !strings.Contains(why, want) {
			t.Errorf("no %q in\n%s", want, why)
		}
	}
	if strings.Contains(why, "words of A") {
		t.Errorf("it has the words of a test that passed:\n%s", why)
	}
}

func TestWithRow(t *testing.T) {
	page := "text\n" + tableStart + "\n| Day |\n|---|\n"
	for i := range keptRuns {
		page += "| old" + string(rune('a'+i)) + " |\n"
	}
	page += tableEnd + "\nmore\n"
	r := row("abc", []result{
		{step: step{name: "unit", tests: true}, took: 3 * time.Second, tests: 7},
		{step: step{name: "image"}, took: time.Second},
	}, time.Unix(0, 0), 4*time.Second)
	if r != "| 1970-01-01 | abc | 4 | 7 | unit 3 (7), image 1 |\n" {
		t.Errorf("row %q", r)
	}
	got, err := withRow([]byte(page), r)
	if err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if !strings.HasPrefix(text, "text\n") || !strings.HasSuffix(text, tableEnd+"\nmore\n") || strings.Count(text, "\n| ") != keptRuns+1 ||
		!strings.Contains(text, "|---|\n"+r+"| olda |") || strings.Contains(text, "oldj") {
		t.Errorf("the page is now\n%s", text)
	}
	if _, err := withRow([]byte("no table"), r); err == nil {
		t.Error("a page without a table is written")
	}
}

// TestLanes: a step waits for what it needs, in whatever lane, and a failure ends the run.
func TestLanes(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/order"
	notes := func(name string) []string { return []string{"sh", "-c", `echo "$1" >>"$2"`, "sh", name, file} }
	results, err := runLanes(t.Context(), []step{
		{name: "late", lane: "one", needs: []string{"early"}, args: []string{"test", "-s", file}},
		{name: "early", lane: "two", args: notes("early")},
	})
	if err != nil || results[0].err != nil {
		t.Errorf("%v, %+v", err, results)
	}
	results, err = runLanes(t.Context(), []step{
		{name: "bad", lane: "one", args: []string{"false"}},
		{name: "next", lane: "one", args: []string{"true"}},
		{name: "beside", lane: "two", args: []string{"sleep", "600"}},
	})
	if err == nil || !strings.Contains(err.Error(), "bad") || results[1].took != 0 || !results[2].ended {
		t.Errorf("%v, %+v; want bad failed, next not run, beside ended", err, results)
	}
	namespaces := []string{"sh", "-c", "ip netns add manx-suite-private && ip netns list | grep -c . | grep -x 1"}
	if results, err = runLanes(t.Context(), []step{{name: "private", lane: "one", args: namespaces, private: true}}); err != nil {
		t.Errorf("a step with namespaces of its own: %v, %+v", err, results)
	}
	if _, err := os.Stat("/run/netns/manx-suite-private"); err == nil {
		t.Error("what a private step named is seen outside")
	}
	results, err = runLanes(t.Context(), []step{
		{name: "empty", lane: "one", tests: true, args: []string{"echo", `{"Action":"pass","Package":"p"}`}},
	})
	if err == nil || errors.Is(results[0].err, nil) {
		t.Errorf("a step that ran no test passed: %+v", results)
	}
}
