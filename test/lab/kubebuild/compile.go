package kubebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// compile builds the targets and puts them into the cache. The targets of a module are
// one "go build": what they share is compiled once, and while one program is linked, which
// takes one core, the others have something to compile. The cache's lock is held.
func compile(ctx context.Context, cache, repo string, list []target, progress func(string)) error {
	sums := map[string]string{}
	for _, t := range list {
		sum, err := inputSum(repo, t)
		if err != nil {
			return err
		}
		sums[t.name] = sum
	}
	out, err := buildDir(cache)
	if err != nil {
		return fmt.Errorf("build %s: %w", namesOf(list), err)
	}
	defer os.RemoveAll(out)
	modules := byModule(list)
	p := plan{map[string]float64{}, map[string]float64{}}
	for _, m := range modules {
		if err := p.add(ctx, repo, m[0].module, m, progress); err != nil {
			return err
		}
	}
	parallel := parallelism(runtime.GOMAXPROCS(0), availableMemory())
	m := newMeter(p, parallel)
	for _, line := range announcement(list, m) {
		progress(line)
	}
	start := time.Now()
	stop := m.report(ctx, cache, out, progress)
	for _, list := range modules {
		cmd := goBuild(ctx, repo, list[0].module, list, out+"/", "-v", "-p", strconv.Itoa(parallel))
		if err = runLines(cmd, m.compiles); err != nil {
			switch err = fmt.Errorf("build %s: %w", namesOf(list), err); {
			case ctx.Err() != nil:
				err = fmt.Errorf("build %s: interrupted (%w); the next one goes on where it was", namesOf(list), ctx.Err())
			case strings.Contains(err.Error(), "signal: killed"):
				err = fmt.Errorf("%w\nThe kernel kills compilers when memory is short: free some, and run it again; it goes on where it was", err)
			}
			break
		}
	}
	stop()
	if err != nil {
		return err
	}
	for _, t := range list {
		if err := install(cache, t, filepath.Join(out, t.name), sums[t.name]); err != nil {
			return err
		}
	}
	progress(fmt.Sprintf("built %s in %.0f s", namesOf(list), time.Since(start).Seconds()))
	return nil
}

// announcement says what is going to happen, before it does, and how to spare it.
func announcement(list []target, m *meter) []string {
	_, left := m.state(0)
	work := count(len(m.plan.packages), "package")
	if len(m.plan.packages) == 0 {
		work = "all compiled"
	}
	what := fmt.Sprintf("once: %s, %s, %s on this machine", count(len(list), "program"), work, about(left))
	if !slices.ContainsFunc(list, func(t target) bool { return t.module == kubeModule }) {
		return []string{fmt.Sprintf("building %s, %s", namesOf(list), what)}
	}
	name := "Kubernetes " + Version
	if len(list) <= 3 {
		name = fmt.Sprintf("%s (%s)", namesOf(list), name)
	}
	lines := []string{fmt.Sprintf("building %s from Go modules, %s", name, what)}
	if slices.ContainsFunc(list, func(t target) bool { return t.version != nil }) {
		lines = append(lines, "programs that are there already spare it: make demo KUBERNETES=DIR, lab build --kubernetes DIR, or $"+SourceEnv)
	}
	return lines
}

// count is a number of things.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// install moves a program into the cache, with a record of what it is from. The record
// goes first and comes last, so that it never stands for another program.
func install(cache string, t target, file, record string) error {
	if err := os.Remove(sumFile(cache, t)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store %s: %w", t.name, err)
	}
	if err := os.Rename(file, filepath.Join(cache, "bin", t.name)); err != nil {
		return fmt.Errorf("store %s: %w", t.name, err)
	}
	if err := renameio.WriteFile(sumFile(cache, t), []byte(record), 0o644); err != nil {
		return fmt.Errorf("store %s: %w", t.name, err)
	}
	return nil
}

// buildDir makes a directory in the cache for programs that are not complete, and
// removes those that killed builds left.
func buildDir(cache string) (string, error) {
	const prefix = "building-"
	left, err := filepath.Glob(filepath.Join(cache, prefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(cache, prefix)
}

// byModule groups targets, in their order.
func byModule(list []target) [][]target {
	var groups [][]target
	for _, t := range list {
		i := slices.IndexFunc(groups, func(g []target) bool { return g[0].module == t.module })
		if i < 0 {
			groups = append(groups, []target{t})
		} else {
			groups[i] = append(groups[i], t)
		}
	}
	return groups
}

// perProcess is the memory, in bytes, that a linker needs: 1.8 GiB for kube-apiserver, 1.1
// for agnhost, 0.8 for kubectl. Several at once are never all of the largest.
const perProcess = 7 << 28

// parallelism is how many compilers and linkers may run at a time. At the end of a build
// all programs are linked at once, and the memory must hold that.
func parallelism(cpus int, memory int64) int {
	if memory == 0 { // unknown
		return cpus
	}
	return max(1, min(cpus, int(memory/perProcess)))
}

// availableMemory returns MemAvailable in bytes, 0 when it is unknown.
func availableMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(b, []byte("MemAvailable:"))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kB, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return kB << 10
}
