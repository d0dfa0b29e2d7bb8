//go:build cluster

package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/guard"
	"github.com/manx-cni/manx/test/lab/layout"
)

// upEnv makes the test binary a program that brings up the lab it names, for TestKilledUp;
// a light one when lightEnv is set.
const upEnv, lightEnv = "MANX_LAB_TEST_UP", "MANX_LAB_TEST_LIGHT"

func TestMain(m *testing.M) {
	guard.Main()
	name := os.Getenv(upEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	o := lab.Options{Name: name, Nodes: 1}
	if os.Getenv(lightEnv) != "" {
		o = lightOptions()
		o.Name = name
	}
	o.Progress = func(s string) { fmt.Println(s) }
	_, err := lab.Up(context.Background(), o)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// inventory looks for anything with the lab's name on the host, without the lab's own
// code: in every process's arguments, cgroups and mounts, among the named
// namespaces, the cgroups and the files.
func inventory(t *testing.T, name string) []string {
	t.Helper()
	l, err := layout.New(name)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range procs {
		if pid, _ := strconv.Atoi(filepath.Base(dir)); pid == os.Getpid() {
			continue
		}
		// A zombie has ended; only its parent, the host's PID 1, can make it vanish.
		if stat, err := os.ReadFile(filepath.Join(dir, "stat")); err != nil || strings.Contains(string(stat), ") Z ") {
			continue
		}
		for _, file := range []string{"cmdline", "cgroup", "mountinfo"} {
			// A process that ends meanwhile gives an error, and is not left behind.
			if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil && strings.Contains(string(b), name) {
				args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
				found = append(found, fmt.Sprintf("%s/%s of %q", dir, file, args))
			}
		}
	}
	for pattern, what := range map[string]string{
		"/run/netns/*" + name + "*":        "network namespace",
		layout.DefaultRoot + "/" + name:    "directory",
		"/tmp/*" + name + "*":              "file",
		"/dev/shm/*" + name + "*":          "file",
		l.Dir():                            "directory",
		"/var/lib/kubelet/pods/*/" + name:  "directory",
		"/run/containerd/*/*" + name + "*": "file",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range matches {
			found = append(found, what+" "+m)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, name) {
			found = append(found, "cgroup "+path)
		}
		return nil
	})
	return found
}

// killPoints are moments in the life of "up": the first line of progress that has the
// text, or the first time the path exists. Those that a light lab has too are tried there.
var killPoints = []struct{ name, line, path string }{
	{name: "containerd", path: "machines/node1/disk/var/log/containerd.log"},
	{name: "images", path: "machines/node1/disk/var/lib/containerd/io.containerd.content.v1.content/ingest"},
	{name: "registration", line: "waiting for the nodes to register"},
}

// A start that is killed, whenever that is, leaves nothing after "down".
func TestKilledUp(t *testing.T) {
	for _, p := range killPoints {
		t.Run(p.name, func(t *testing.T) {
			name := randomName(t)
			t.Cleanup(func() { takeDown(t, name) })
			l, err := layout.New(name)
			if err != nil {
				t.Fatal(err)
			}
			path := strings.ReplaceAll(p.path, "%s", name)
			if !filepath.IsAbs(path) {
				path = filepath.Join(l.Dir(), path)
			}
			killUp(t, name, func(line string) bool {
				if p.line != "" {
					return strings.Contains(line, p.line)
				}
				_, err := os.Stat(path)
				return err == nil
			})
		})
	}
}

// A start that finds what a killed one has left makes the lab once more.
func TestUpAfterKilledUp(t *testing.T) {
	name := randomName(t)
	t.Cleanup(func() { takeDown(t, name) })
	killUp(t, name, func(line string) bool { return strings.Contains(line, "the objects of") }, lightEnv+"=1")
	o := lightOptions()
	o.Name = name
	c, err := lab.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t.Context(), "get", "nodes", "-o", "name"); err != nil || strings.TrimSpace(out) != "node/node1" {
		t.Errorf("nodes: %q, %v", out, err)
	}
}

// killUp starts "up" in a process of its own and kills it when now says so.
// now is called with each line of progress, and with "" all the time.
func killUp(t *testing.T, name string, now func(line string) bool, env ...string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), upEnv+"="+name), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var all []string
	for killed := false; ; {
		line, open := "", true
		select {
		case line, open = <-lines:
			all = append(all, line)
		case <-tick.C:
		}
		if !open {
			err := cmd.Wait()
			if !killed {
				t.Fatalf("\"up\" ended by itself (%v) before it could be killed:\n%s", err, strings.Join(all, "\n"))
			}
			return
		}
		if !killed && now(line) {
			killed = true
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
