package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/manx-cni/manx/test/vm"
)

// step is something that is run.
type step struct {
	name string
	lane string
	// needs are steps that must have ended well before.
	needs []string
	args  []string
	env   []string
	// weight is the step's share of the CPUs when they do not suffice, in processes; labs
	// have theirs besides (package lab). 0 is 2.
	weight int
	// private gives the step a /run/netns of its own, so that namespaces that its tests name
	// go with its last process, however that ends. What makes labs has guards instead.
	private bool
	// tests is set when args is "go test -json", whose tests are counted.
	tests bool
}

// manyWait lets tests in network namespaces wait side by side: most wait for timers of a
// protocol and need no CPU meanwhile.
var manyWait = []string{"-p", "3", "-parallel", "6"}

// gotest is a step that runs tests; go's own output is read, so it is JSON. Without DWARF a
// test program is linked in half the time, which is what most of them take longest for.
func gotest(name, lane string, args ...string) step {
	return step{name: name, lane: lane, tests: true, args: append([]string{"go", "test", "-json", "-ldflags=-w"}, args...)}
}

func (s step) after(needs ...string) step { s.needs = append(s.needs, needs...); return s }
func (s step) with(env ...string) step    { s.env = append(s.env, env...); return s }
func (s step) inPrivate() step            { s.private = true; return s }
func (s step) weighing(w int) step        { s.weight = w; return s }

// guestWeight is twice what the other lanes have each: an emulated guest is what takes
// longest. Where the kernel at hand has ipip there is none.
const guestWeight = 4

// everything lists all steps. The lanes are balanced for two CPUs, which the whole of it
// keeps busy: the guest's never waits, what compiles and races runs beside it alone, and
// then the labs, which wait more than they work. Three at once from the start take as
// long, and each test has less of a machine.
func everything() ([]step, error) {
	alone, shared, err := packages()
	if err != nil {
		return nil, err
	}
	onIPIP, err := kernelWithIPIP()
	if err != nil {
		return nil, err
	}
	image, err := filepath.Abs("build/manx.tar")
	if err != nil {
		return nil, err
	}
	onServer, err := serverTests()
	if err != nil {
		return nil, err
	}
	kinds := func(name, lane, kinds string) step {
		s := gotest(name, lane, "-tags", "cluster", "-count=1", "-timeout", "40m", "./test/e2e")
		return s.with("MANX_E2E_KINDS="+kinds, "MANX_IMAGE="+image)
	}
	return []step{
		{name: "programs", lane: "code", args: []string{"make", "--no-print-directory", "build"}},
		{name: "kubernetes", lane: "code", args: []string{"bin/lab", "build"}, needs: []string{"programs"}},
		gotest("unit", "code", slices.Concat(manyWait, []string{"-count=1"}, alone)...).inPrivate(),
		gotest("race", "code", slices.Concat(manyWait, []string{"-count=1", "-race", "-timeout", "20m"}, shared)...).inPrivate(),
		gotest("floods", "code", "-count=1", "-run", "^Test(Flood|ManyRoutes)", "./bgp/speaker/gobgp").inPrivate(),
		gotest("api server", "code", slices.Concat([]string{"-tags", "cluster", "-count=1"}, onServer)...).after("kubernetes"),
		gotest("chaos", "code", "-tags", "cluster", "-count=1", "-timeout", "15m", "./test/chaos").after("kubernetes"),

		kinds("ipip", "guest", "ipip").after("kubernetes").weighing(guestWeight),
		kinds("cross subnet", "guest", "crosssubnet").after("kubernetes").weighing(guestWeight),

		kinds("routers", "guest", "bird,frr,gobgpd,openbgpd").after("kubernetes"),

		kinds("light", "labs", "light,services").after("kubernetes", "race"),
		kinds("dual", "labs", "dual").after("kubernetes"),
		gotest("labs", "labs", "-tags", "cluster", "-count=1", "-timeout", "15m", "./test/lab/...").after("kubernetes"),
		{name: "image", lane: "labs", args: []string{"make", "--no-print-directory", "image"}, needs: []string{"programs"}},
		kinds("full", "labs", "full").after("kubernetes", "image"),
		gotest("tunnel device", "guest", append(onIPIP, "-tags", "ipip", "-count=1", "-p=1",
			"./felix/tunnel", "./felix/rpfilter")...).after("programs"),
	}, nil
}

// kernelWithIPIP is how "go test" gets a package's tests onto a kernel with ipip: by itself
// where this one has it, else by way of a guest.
func kernelWithIPIP() (args []string, err error) {
	if vm.HasIPIP() {
		return nil, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	return []string{"-exec", filepath.Join(dir, "bin/vm") + " run --"}, nil
}

// quick is what a developer runs between two thoughts: what has not changed since is not
// run again (Go's test cache).
func quick() []step {
	return []step{gotest("unit and network namespaces", "code", "./...").inPrivate()}
}

// labTests are the rooms whose tests make labs; they are steps of their own.
var labTests = []string{"/test/e2e", "/test/lab", "/test/chaos"}

func makesLabs(path string) bool {
	return slices.ContainsFunc(labTests, func(room string) bool { return strings.Contains(path, room) })
}

// serverTests names the tests that take an API server and no lab, and their packages, as
// arguments of "go test": what else these packages have is in other steps.
func serverTests() (args []string, err error) {
	list := func(tags string) (map[string][]string, map[string]string, error) {
		out, err := exec.Command("go", "list", "-tags", tags, "-f",
			`{{.ImportPath}} {{.Dir}} {{join .TestGoFiles ","}},{{join .XTestGoFiles ","}}`, "./...").Output()
		if err != nil {
			return nil, nil, fmt.Errorf("list the tests: %w", err)
		}
		files, dirs := map[string][]string{}, map[string]string{}
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			files[f[0]], dirs[f[0]] = strings.Split(f[2], ","), f[1]
		}
		return files, dirs, nil
	}
	without, _, err := list("")
	if err != nil {
		return nil, err
	}
	with, dirs, err := list("cluster")
	if err != nil {
		return nil, err
	}
	var tests, paths []string
	for _, path := range slices.Sorted(maps.Keys(with)) {
		found := false
		for _, file := range with[path] {
			if file == "" || makesLabs(path) || slices.Contains(without[path], file) {
				continue
			}
			names, err := testsIn(filepath.Join(dirs[path], file))
			if err != nil {
				return nil, err
			}
			tests, found = append(tests, names...), found || len(names) > 0
		}
		if found {
			paths = append(paths, path)
		}
	}
	slices.Sort(tests)
	return append([]string{"-run", "^(" + strings.Join(slices.Compact(tests), "|") + ")$"}, paths...), nil
}

// testsIn lists the tests of a file.
func testsIn(file string) (names []string, err error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
			names = append(names, fn.Name.Name)
		}
	}
	return names, nil
}

// packages lists the packages of the module in two parts: those that share something
// between goroutines, which the race detector watches, and the others. What the steps with
// labs test is in neither.
func packages() (alone, shared []string, err error) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{.Dir}} {{join .GoFiles ","}}`, "./...").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("list the packages: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		races := false
		if makesLabs(f[0]) {
			continue
		}
		if len(f) == 3 && inProduct(f[0]) {
			if races, err = concurrent(f[1], strings.Split(f[2], ",")); err != nil {
				return nil, nil, err
			}
		}
		if races {
			shared = append(shared, f[0])
		} else {
			alone = append(alone, f[0])
		}
	}
	return alone, shared, nil
}

// inProduct reports whether a package is a part of Manx whose programs run for long.
func inProduct(path string) bool {
	for _, room := range []string{"/internal/", "/ipam", "/felix", "/bgp"} {
		if strings.Contains(path, room) {
			return true
		}
	}
	return false
}

// concurrent reports whether a package starts goroutines or has what they need to share
// something.
func concurrent(dir string, files []string) (bool, error) {
	set := token.NewFileSet()
	for _, name := range files {
		f, err := parser.ParseFile(set, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return false, err
		}
		found := slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool {
			path := strings.Trim(i.Path.Value, `"`)
			return path == "sync" || path == "sync/atomic" || strings.HasPrefix(path, "golang.org/x/sync/")
		})
		ast.Inspect(f, func(n ast.Node) bool {
			_, is := n.(*ast.GoStmt)
			found = found || is
			return !found
		})
		if found {
			return true, nil
		}
	}
	return false, nil
}
