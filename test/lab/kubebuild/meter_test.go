package kubebuild

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMeter: the percentage is that of the work, not of the packages, a package counts
// when it cannot run any more, and the time left follows the speed of this machine.
func TestMeter(t *testing.T) {
	p := plan{
		packages: map[string]float64{"small": 10, "big": 100, "mid": 40, "last": 30},
		programs: map[string]float64{"a": 10, "b": 10},
	}
	for _, c := range []struct {
		what              string
		parallel          int
		compiles          []string
		links             []string
		elapsed           time.Duration
		percent           int
		leftMin, leftMost time.Duration
	}{
		{"nothing yet: the expected speed", 2, nil, nil, 0, 0, 100 * time.Second, 100 * time.Second},
		{"four cores", 4, nil, nil, 0, 0, 50 * time.Second, 50 * time.Second},
		{"two run, none has ended", 2, []string{"big", "small"}, nil, time.Second, 0, 100 * time.Second, 110 * time.Second},
		{"the big one has ended", 2, []string{"big", "small", "mid"}, nil, 50 * time.Second, 50, 50 * time.Second, 50 * time.Second},
		{"half as fast", 2, []string{"big", "small", "mid"}, nil, 100 * time.Second, 50, 80 * time.Second, 90 * time.Second},
		{"a program is linked", 1, []string{"big", "small", "mid", "last"},
			[]string{"a"}, 160 * time.Second, 80, 38 * time.Second, 42 * time.Second},
		{"a program is linked twice", 1, []string{"big", "small", "mid", "last"},
			[]string{"a", "a"}, 160 * time.Second, 80, 38 * time.Second, 42 * time.Second},
		{"what is not in the plan does not count", 1, []string{"big", "elsewhere", "elsewhere"},
			nil, time.Second, 0, 190 * time.Second, 210 * time.Second},
	} {
		m := newMeter(p, c.parallel)
		for _, path := range c.compiles {
			if _, planned := p.packages[path]; m.compiles(path) != planned {
				t.Errorf("%s: compiles(%q) is %v", c.what, path, !planned)
			}
		}
		for _, name := range c.links {
			m.hasLinked(name)
		}
		percent, left := m.state(c.elapsed)
		if percent != c.percent || left.Round(time.Second) < c.leftMin || left.Round(time.Second) > c.leftMost {
			t.Errorf("%s: %d %%, %s left; want %d %%, %s to %s", c.what, percent, left, c.percent, c.leftMin, c.leftMost)
		}
	}
	if percent, left := newMeter(plan{}, 2).state(time.Second); percent != 100 || left != 0 {
		t.Errorf("an empty plan: %d %%, %s left", percent, left)
	}
}

func TestAbout(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "about 5 s", 6 * time.Second: "about 10 s", 61 * time.Second: "about 65 s", 90 * time.Second: "about 2 min",
		130 * time.Second: "about 2 min", 5*time.Minute + 40*time.Second: "about 6 min",
	} {
		if got := about(d); got != want {
			t.Errorf("about(%s) is %q, want %q", d, got, want)
		}
	}
}

// TestReport: a program counts when its file is there; the meter's line is taken away at the end.
func TestReport(t *testing.T) {
	out := t.TempDir()
	lines := make(chan string, 100)
	ctx := WithMeter(t.Context(), func(s string) { lines <- s })
	m := newMeter(plan{programs: map[string]float64{"a": 1, "b": 1}}, 1)
	stop := m.report(ctx, t.TempDir(), out, func(s string) { t.Errorf("told %q beside the meter", s) })
	write(t, filepath.Join(out, "a"), "")
	if s := <-lines; !strings.Contains(s, "50 %") || !strings.Contains(s, "1 of 2 programs linked") {
		t.Errorf("the meter's line is %q", s)
	}
	stop()
	var last string
	for len(lines) > 0 {
		last = <-lines
	}
	if last != "" {
		t.Errorf("the last line is %q, want none", last)
	}
}

func TestParallelism(t *testing.T) {
	for _, c := range []struct {
		cpus   int
		memory int64
		want   int
	}{{2, 24 << 30, 2}, {16, 7 << 30, 4}, {16, 32 << 30, 16}, {4, 100 << 20, 1}, {4, 0, 4}} {
		if got := parallelism(c.cpus, c.memory); got != c.want {
			t.Errorf("%d CPUs and %d MiB: %d at a time, want %d", c.cpus, c.memory>>20, got, c.want)
		}
	}
	if availableMemory() == 0 {
		t.Error("this machine's memory is unknown")
	}
}

// TestPlan: Go says what it would compile, that is what it compiles then, and after that
// there is nothing left but to link.
func TestPlan(t *testing.T) {
	repo, list := t.TempDir(), []target{{name: "prog", module: ".", pkg: "./cmd/prog"}}
	once := fmt.Sprintf("const Once = %d\n", time.Now().UnixNano()) // in no cache yet
	write(t, filepath.Join(repo, "go.mod"), "module example.com/prog\n\ngo 1.26\n")
	write(t, filepath.Join(repo, "small/small.go"), "package small\n"+once)
	write(t, filepath.Join(repo, "big/big.go"), "package big\n"+once+strings.Repeat("// much\n", 10000))
	write(t, filepath.Join(repo, "cmd/prog/main.go"),
		"package main\nimport (\n_ \"example.com/prog/big\"\n_ \"example.com/prog/small\"\n)\nfunc main() {}\n")
	build := func() plan {
		p := plan{map[string]float64{}, map[string]float64{}}
		if err := p.add(t.Context(), repo, ".", list, func(string) {}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	cold := build()
	for _, path := range []string{"example.com/prog/small", "example.com/prog/big", "example.com/prog/cmd/prog"} {
		if _, ok := cold.packages[path]; !ok {
			t.Errorf("%s is not among what is to compile: %v", path, cold.packages)
		}
	}
	if big, small := cold.packages["example.com/prog/big"], cold.packages["example.com/prog/small"]; big < 2*small {
		t.Errorf("the big package weighs %.3f, the small one %.3f", big, small)
	}
	m := newMeter(cold, 1)
	out := t.TempDir()
	if err := runLines(goBuild(t.Context(), repo, ".", list, out+"/", "-v"), m.compiles); err != nil {
		t.Fatal(err)
	}
	if got, want := len(m.started), len(cold.packages); got != want {
		t.Errorf("Go compiled %d packages, %d were planned", got, want)
	}
	if _, err := os.Stat(filepath.Join(out, "prog")); err != nil {
		t.Error(err)
	}
	if warm := build(); len(warm.packages) != 0 || len(warm.programs) != 1 {
		t.Errorf("with everything compiled the plan is %v", warm)
	}
}

// TestPlanSaysWhatIsWrong: Go's own complaint is in the error.
func TestPlanSaysWhatIsWrong(t *testing.T) {
	repo, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	p := plan{map[string]float64{}, map[string]float64{}}
	err = p.add(context.Background(), repo, ".", []target{{name: "x", pkg: "./test/lab/nowhere"}}, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "nowhere") || !strings.Contains(err.Error(), "not found") {
		t.Errorf("the plan for a package that is not there: %v", err)
	}
}

// TestAnnouncement: the first line says what, how much and how long, the second how to
// spare it, where that can be spared.
func TestAnnouncement(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  []string // what each line has in it
	}{
		{[]string{"etcd", "kubectl"}, []string{"building etcd, kubectl (Kubernetes " + Version +
			") from Go modules, once: 2 programs, 1 package, about 2 min on this machine", "make demo KUBERNETES=DIR"}},
		{[]string{"agnhost"}, []string{"1 program, 1 package, "}},
		{nil, []string{"building Kubernetes " + Version + " from Go modules, once: 9 programs", "lab build --kubernetes DIR"}},
		{[]string{"pause"}, []string{"building pause, once: "}},
	} {
		list, err := pick(c.names)
		if err != nil {
			t.Fatal(err)
		}
		got := announcement(list, newMeter(plan{packages: map[string]float64{"x": 240}}, 2))
		if len(got) != len(c.want) {
			t.Errorf("%q: it says %q, want %d lines", c.names, got, len(c.want))
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%q: line %d is %q, want one with %q", c.names, i+1, got[i], want)
			}
		}
	}
}
