package kubebuild

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// plan is what the build of some programs has to do: the packages that Go's cache does
// not have, and the programs to link.
type plan struct {
	packages map[string]float64 // weight by import path
	programs map[string]float64 // weight of linking by name
}

// A weight is the time in seconds that one core of the machine took that it was measured
// on (two cores, Go 1.26, an empty cache: 2,886 packages, 105 MB of source, 845 s in
// compilers and 29 s in linkers). The compiler reads the source, and of every package that
// it depends on what that exports. With both, the percentage was never more than 4 points
// off the share of the CPU time; with the number of packages alone it was up to 11, because
// those at the start, Go's own, are small.
const (
	perByte   = 2.84e-6 // per byte of Go source
	perImport = 5.3e-4  // per package it depends on, directly or not
	perLink   = 4.0     // 0.9 (etcd) to 5.7 (kube-apiserver)
)

// weight is that of a package.
func weight(source int64, imports int) float64 {
	return perByte*float64(source) + perImport*float64(1+imports)
}

// add asks Go what building the targets of one module would do. That needs the modules'
// source: what is missing is downloaded, and progress told so.
func (p *plan) add(ctx context.Context, repo, module string, list []target, progress func(string)) error {
	stale, err := stalePackages(ctx, repo, module, list, progress)
	if err != nil {
		return fmt.Errorf("plan the build of %s: %w", namesOf(list), err)
	}
	for _, t := range list {
		p.programs[t.name] = perLink
	}
	if len(stale) == 0 {
		return nil
	}
	weights, err := weigh(ctx, repo, module, list)
	if err != nil {
		return fmt.Errorf("plan the build of %s: %w", namesOf(list), err)
	}
	for path := range stale {
		p.packages[path] = max(weights[path], perImport)
	}
	return nil
}

// stalePackages returns the packages that would be compiled. "go build -n" knows: it
// consults the cache and prints, for each package that is not there, its path between
// two lines of "#" and the commands. (The field Stale of "go list" is true for all.)
func stalePackages(ctx context.Context, repo, module string, list []target, progress func(string)) (map[string]bool, error) {
	stale := map[string]bool{}
	var previous string
	downloads := 0
	cmd := goBuild(ctx, repo, module, list, os.TempDir()+"/", "-n") // writes nothing
	err := runLines(cmd, func(line string) bool {
		path, banner := strings.CutPrefix(line, "# ")
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			if downloads++; downloads == 1 {
				progress("downloading the Go modules of Kubernetes that this machine does not have")
			}
		case banner && previous == "#":
			stale[path] = true
		}
		previous = line
		return strings.HasPrefix(line, "go: downloading ") || banner
	})
	return stale, err
}

// weigh returns the weight of every package that the targets are made of.
func weigh(ctx context.Context, repo, module string, list []target) (map[string]float64, error) {
	const format = `{{.ImportPath}}{{"\t"}}{{len .Deps}}{{"\t"}}{{.Dir}}{{range .GoFiles}}{{"\t"}}{{.}}{{end}}`
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-f", format}, packagesOf(list)...)...)
	environ(cmd, repo, module)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w\n%s", cmd, cmd.Dir, err, stderr.Bytes())
	}
	weights := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) < 3 {
			return nil, fmt.Errorf("%s prints %q, want a path, a number and a directory", cmd, line)
		}
		imports, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("%s prints %q: %w", cmd, line, err)
		}
		var source int64
		for _, name := range fields[3:] {
			if info, err := os.Stat(filepath.Join(fields[2], name)); err == nil { // else the compiler will say so
				source += info.Size()
			}
		}
		weights[fields[0]] = weight(source, imports)
	}
	return weights, nil
}

// goBuild is the command that builds the targets of one module into the directory out.
func goBuild(ctx context.Context, repo, module string, list []target, out string, flags ...string) *exec.Cmd {
	const pkg = "k8s.io/component-base/version."
	parts := strings.SplitN(strings.TrimPrefix(Version, "v"), ".", 3)
	ldflags := fmt.Sprintf("-s -w -X %[1]sgitVersion=%[2]s -X %[1]sgitMajor=%[3]s -X %[1]sgitMinor=%[4]s", pkg, Version, parts[0], parts[1])
	args := append([]string{"build", "-trimpath", "-ldflags", ldflags, "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, packagesOf(list)...)...)
	environ(cmd, repo, module)
	return cmd
}

func environ(cmd *exec.Cmd, repo, module string) {
	cmd.Dir = filepath.Join(repo, module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
}

func packagesOf(list []target) []string {
	var pkgs []string
	for _, t := range list {
		pkgs = append(pkgs, t.pkg)
	}
	return pkgs
}

// runLines runs a command and gives each line of its standard error to known. Lines for
// which that returns false are kept, the last of them, for the error.
func runLines(cmd *exec.Cmd, known func(string) bool) error {
	const keep = 100
	var rest []string
	w := &lineWriter{line: func(s string) {
		if s != "" && !known(s) {
			rest = append(rest[max(0, len(rest)-keep+1):], s)
		}
	}}
	cmd.Stderr = w
	// Go ends the compilers it has started, and its temporary files go too.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	w.end()
	if err != nil {
		return fmt.Errorf("%s in %s: %w\n%s", cmd, cmd.Dir, err, strings.Join(rest, "\n"))
	}
	return nil
}

// lineWriter cuts what is written to it into lines.
type lineWriter struct {
	line func(string)
	tail []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.tail = append(w.tail, b...)
	for {
		line, tail, found := bytes.Cut(w.tail, []byte("\n"))
		if !found {
			return len(b), nil
		}
		w.line(string(line))
		w.tail = tail
	}
}

// end hands on a last line without a newline.
func (w *lineWriter) end() {
	if len(w.tail) > 0 {
		w.line(string(w.tail))
	}
}
