//go:build cluster

package kubebuild

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTakenForReal: the real programs, from a directory, tell their versions and run from
// the cache; the one that is not in the directory is built.
func TestTakenForReal(t *testing.T) {
	real, err := Build(t.Context(), func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	cache, progress, said := emptyCache(t)
	dir := t.TempDir()
	var names []string
	for _, tg := range targets {
		if tg.version != nil {
			names = append(names, tg.name)
			if err := os.Symlink(filepath.Join(real, tg.name), filepath.Join(dir, tg.name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv(SourceEnv, dir)
	bin, err := Build(t.Context(), progress, append(names, "pause")...)
	if err != nil {
		t.Fatal(err)
	}
	all := said()
	for _, want := range []string{
		"etcd " + EtcdVersion + " taken from " + dir, strings.Join(names[1:], ", ") + " " + Version + " taken from " + dir, "built pause in",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("it says:\n%s\nwant %q", all, want)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, "kube-apiserver"), "--version").CombinedOutput()
	if err != nil || string(out) != "Kubernetes "+Version+"\n" {
		t.Errorf("kube-apiserver in %s says %q, %v", cache, out, err)
	}
	t.Setenv(SourceEnv, "")
	if _, err := Build(t.Context(), progress, names...); err != nil {
		t.Fatal(err)
	}
	if all := said(); strings.Contains(all, "building") || strings.Count(all, "\n") != 0 ||
		!strings.Contains(all, "etcd "+EtcdVersion+" taken from "+dir+" earlier") {
		t.Errorf("without the directory it says:\n%s", all)
	}
}
