package machine

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseHierarchy(t *testing.T) {
	for line, want := range map[string]Hierarchy{
		"30 29 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory": {
			"/sys/fs/cgroup/memory", false, "memory",
		},
		"31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct": {
			"/sys/fs/cgroup/cpu,cpuacct", false, "cpu,cpuacct",
		},
		"32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd": {
			"/sys/fs/cgroup/systemd", false, "name=systemd",
		},
		"33 29 0:29 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot": {"/sys/fs/cgroup", true, ""},
	} {
		got, ok := parseHierarchy(line)
		if !ok || got != want {
			t.Errorf("%s\n got %+v, %v\nwant %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "garbage", "25 1 254:0 / / rw - ext4 /dev/vda rw", "a - cgroup"} {
		if h, ok := parseHierarchy(line); ok {
			t.Errorf("%q gives %+v", line, h)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"A=1", "AB=2", "C=3"}, []string{"A=9", "D=4"})
	want := []string{"AB=2", "C=3", "A=9", "D=4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestIsInit(t *testing.T) {
	dir, ok := IsInit([]string{"manx-lab-init", "/x/y/", "supervise"})
	if !ok || dir != "/x/y" {
		t.Errorf("got %q, %v", dir, ok)
	}
	for _, args := range [][]string{nil, {"manx-lab-init"}, {"/bin/lab", "up"}} {
		if _, ok := IsInit(args); ok {
			t.Errorf("%q is taken for a PID 1", args)
		}
	}
}

func TestSpecRoundTrip(t *testing.T) {
	dir := t.TempDir()
	want := Spec{
		Hostname: "node1", NetNS: "/run/netns/x", Cgroup: "a/b", Share: 2, Groups: map[string]int{"g": 3}, Binds: []Bind{{"/a", "/b"}},
		Sysctls: []Sysctl{{"net/ipv4/ip_forward", "0"}},
		Components: []Component{{Name: "c", Args: []string{"c", "--d"}, Env: []string{"E=f"},
			WaitPath: "/p", WaitTCP: "1.2.3.4:5", WaitURL: "https://u/v", WaitCA: "/ca"}},
	}
	if err := want.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(filepath.Join(dir, "spec.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a broken spec is accepted")
	}
}

func TestMakeDisk(t *testing.T) {
	dir := t.TempDir()
	if err := MakeDisk(dir, "node1", []byte("127.0.0.1 localhost\n")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/hostname": "node1\n", "etc/hosts": "127.0.0.1 localhost\n", "etc/resolv.conf": ""} {
		got, err := os.ReadFile(filepath.Join(dir, "disk", name))
		if err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	// Calico's and Kubernetes' manifests name the old path.
	if link, err := os.Readlink(filepath.Join(dir, "disk/var/run")); err != nil || link != "/run" {
		t.Errorf("/var/run points to %q, %v; want /run", link, err)
	}
	for _, secret := range []string{"shadow", "ssh", "gshadow"} {
		if _, err := os.Lstat(filepath.Join(dir, "disk/etc", secret)); err == nil {
			t.Errorf("the host's /etc/%s is on the machine's disk", secret)
		}
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("1\n2\n3\n4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Tail(file, 2); got != "3\n4" {
		t.Errorf("got %q", got)
	}
	if got := Tail(file, 9); got != "1\n2\n3\n4" {
		t.Errorf("got %q", got)
	}
}

func TestMountPoints(t *testing.T) {
	points, err := MountPoints()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(points, "/proc") {
		t.Errorf("no /proc among %q", points)
	}
}

func TestWeigh(t *testing.T) {
	for file, want := range map[string]string{"cpu.weight": "300", "cpu.shares": "3072", "cpuset.cpus": "0"} {
		dir := t.TempDir()
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := weigh(dir, 3); err != nil {
			t.Error(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", file, got, err, want)
		}
	}
}
