package kubebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SourceEnv is the environment variable that says where the programs of Kubernetes and
// etcd are from: the absolute path of a directory that has them ready-made, some or all
// (those it does not have are built); [FromModules]; or nothing, which builds what the
// cache does not have and leaves what was taken into it before.
//
// A program is taken by a copy: what happens to the directory later does not matter to a
// lab. Its version must have the minor that test/lab/kube pins, because flags and
// configuration files are written for that; the patch may differ.
const SourceEnv = "MANX_LAB_KUBERNETES"

// FromModules as the value of SourceEnv builds all programs from the Go modules, also
// those that were taken before.
const FromModules = "modules"

// source is what SourceEnv says.
type source struct {
	dir     string // "" when there is none
	modules bool
}

func sourceFromEnv() (source, error) {
	switch v := os.Getenv(SourceEnv); {
	case v == "":
		return source{}, nil
	case v == FromModules:
		return source{modules: true}, nil
	case !filepath.IsAbs(v):
		return source{}, fmt.Errorf("%s is %q: want the absolute path of a directory with programs of Kubernetes, or %q",
			SourceEnv, v, FromModules)
	default:
		return source{dir: filepath.Clean(v)}, nil
	}
}

// check refuses a directory that cannot be meant; bin is the cache's.
func (s source) check(bin string) error {
	if s.dir == "" {
		return nil
	}
	info, err := os.Stat(s.dir)
	if err != nil {
		return fmt.Errorf("take Kubernetes from the directory that %s or --kubernetes names: %w", SourceEnv, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("take Kubernetes from %s: that is no directory (%s or --kubernetes names one that has kube-apiserver and the others)",
			s.dir, SourceEnv)
	}
	if own, err := os.Stat(bin); err == nil && os.SameFile(info, own) {
		return fmt.Errorf("take Kubernetes from %s: that is the cache itself; unset %s", s.dir, SourceEnv)
	}
	var names []string
	for _, t := range targets {
		if t.version == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(s.dir, t.name)); err == nil {
			return nil
		}
		names = append(names, t.name)
	}
	return fmt.Errorf("take Kubernetes from %s: it has none of %s", s.dir, strings.Join(names, ", "))
}

// taken is the record of a program in the cache that was not built but taken. It stands
// in the place of the sum of one that was built.
type taken struct {
	Path    string    `json:"taken"` // of the original
	Version string    `json:"version"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime"`
}

// readTaken reports false for a program that was built, or is not there.
func readTaken(cache string, t target) (taken, bool) {
	var r taken
	b, err := os.ReadFile(sumFile(cache, t))
	if err != nil || json.Unmarshal(b, &r) != nil {
		return taken{}, false
	}
	_, err = os.Stat(filepath.Join(cache, "bin", t.name))
	return r, err == nil && r.Path != ""
}

// take brings the programs into the cache that the source has, and returns the others:
// they are to be built. Without a directory, what was taken before stays, and is named.
func (s source) take(ctx context.Context, cache string, list []target, progress func(string)) (others []target, err error) {
	if s.modules {
		return list, nil
	}
	said := map[string][]string{} // names by what is said of them
	for _, t := range list {
		record, was := readTaken(cache, t)
		file := filepath.Join(s.dir, t.name)
		info, err := os.Stat(file)
		switch {
		case s.dir == "" && was && suits(record.Version, t.want):
			what := fmt.Sprintf("%s taken from %s earlier", record.Version, filepath.Dir(record.Path))
			said[what] = append(said[what], t.name)
		case s.dir == "" || t.version == nil || errors.Is(err, fs.ErrNotExist):
			others = append(others, t)
		case err != nil:
			return nil, fmt.Errorf("take %s: %w", t.name, err)
		case was && record.Path == file && record.Size == info.Size() && record.ModTime.Equal(info.ModTime()) && suits(record.Version, t.want):
			// It is in the cache.
		default:
			version, err := takeOne(ctx, cache, t, file, info)
			if err != nil {
				return nil, err
			}
			what := fmt.Sprintf("%s taken from %s", version, s.dir)
			said[what] = append(said[what], t.name)
		}
	}
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(said)) {
		lines = append(lines, strings.Join(said[what], ", ")+" "+what)
	}
	switch {
	case len(lines) == 0:
	case s.dir == "":
		progress(fmt.Sprintf("using %s; \"lab build --kubernetes %s\" builds from source instead", strings.Join(lines, ", "), FromModules))
	default:
		progress(strings.Join(lines, ", "))
	}
	return others, nil
}

// takeOne copies a program into the cache, after it has told a version that suits.
func takeOne(ctx context.Context, cache string, t target, file string, info fs.FileInfo) (string, error) {
	version, err := askVersion(ctx, t, file)
	if err != nil {
		return "", fmt.Errorf("take %s: %w", file, err)
	}
	if !suits(version, t.want) {
		return "", fmt.Errorf("take %s: it is %s, the lab needs %s (any patch of that minor: flags and configuration are written for it); "+
			"give a directory with such programs, or none to have them built", file, version, minor(t.want)+".x")
	}
	out, err := buildDir(cache)
	if err != nil {
		return "", fmt.Errorf("take %s: %w", file, err)
	}
	defer os.RemoveAll(out)
	copied := filepath.Join(out, t.name)
	if err := copyProgram(file, copied); err != nil {
		return "", fmt.Errorf("take %s: %w", file, err)
	}
	record, err := json.Marshal(taken{file, version, info.Size(), info.ModTime()})
	if err != nil {
		return "", fmt.Errorf("take %s: %w", file, err)
	}
	return version, install(cache, t, copied, string(record))
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

var versionPattern = regexp.MustCompile(`\bv?(\d+\.\d+\.\d+[-+.0-9A-Za-z]*)`)

// askVersion runs a program to have its version, as v1.2.3.
func askVersion(ctx context.Context, t target, file string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, t.version...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ask for its version with %q: %w\n%s", cmd.String(), err, out)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%q names no version; it says: %s", cmd.String(), strings.TrimSpace(string(out)))
	}
	return "v" + string(m[1]), nil
}

// suits reports whether a version has the minor that is wanted.
func suits(version, want string) bool { return minor(version) == minor(want) }

// minor is v1.2 of v1.2.3.
func minor(version string) string {
	major, rest, _ := strings.Cut(version, ".")
	m, _, _ := strings.Cut(rest, ".")
	return major + "." + m
}
