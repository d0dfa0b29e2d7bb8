//go:build cluster

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/layout"
)

// checkRunner: a runner that is stopped does nothing, one that is killed leaves all pods,
// and the next one makes up for what it has not seen.
func (l *light) checkRunner(t *testing.T) {
	processes := func() string { return l.processes(t, "node1", `agnhost (net|pause)|manx-node (run|pod-network)`) }
	l.addPod(t, lab.Pod{Name: "doomed", Node: "node1"})
	doomed := l.addrs["doomed"][0].String()
	// A process that the runner is about to replace by another program is none of them.
	before := ""
	eventually(t, "processes that stay", func() error {
		was := before
		if before = processes(); before != was {
			return fmt.Errorf("they were\n%s\nand are\n%s", was, before)
		}
		return nil
	})
	l.sh(t, "node1", "kill -STOP $(pgrep -x lab-runner)")
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	if err := l.client.CoreV1().Pods("default").Delete(t.Context(), "doomed", now); err != nil {
		t.Fatal(err)
	}
	late := lab.Pod{Namespace: "default", Name: "late", Node: "node1"}
	if _, err := l.client.CoreV1().Pods("default").Create(t.Context(), late.Object(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if after := processes(); after != before {
		t.Errorf("while the runner was stopped the processes became\n%s\nafter\n%s", after, before)
	}
	if l.sh(t, "node1", "ip route show "+doomed) == "" {
		t.Errorf("while the runner was stopped the deleted pod's route went")
	}
	l.sh(t, "node1", "kill -KILL $(pgrep -x lab-runner)")
	l.running(t, "late")
	eventually(t, "the end of the deleted pod's network", func() error {
		if route := l.sh(t, "node1", "ip route show "+doomed); route != "" {
			return fmt.Errorf("there is %s", route)
		}
		return nil
	})
	// All of before but the deleted pod's go on, and the late pod's has come: none is there twice.
	eventually(t, "the processes after the runner's end", func() error {
		left := map[string]bool{}
		for _, pid := range strings.Fields(processes()) {
			left[pid] = true
		}
		gone := 0
		for _, pid := range strings.Fields(before) {
			if !left[pid] {
				gone++
			}
		}
		if gone != 1 || len(left) != len(strings.Fields(before)) {
			return fmt.Errorf("of %d processes %d have gone, and %d are there", len(strings.Fields(before)), gone, len(left))
		}
		return nil
	})
	if err := l.WaitReady(t.Context()); err != nil {
		t.Error(err)
	}
}

// processes are the ids of a machine's processes whose arguments contain the pattern. A
// child of one of them that has the same arguments is about to run another program
// (execve(2)): it is none.
func (l *light) processes(t *testing.T, machine, pattern string) string {
	t.Helper()
	args := regexp.MustCompile(`^(\d+) +(\d+) +(?:\S*/)?(?:` + pattern + `)(?: |$)`)
	parents := map[string]string{}
	for line := range strings.Lines(l.sh(t, machine, "ps -eo pid=,ppid=,args=")) {
		if m := args.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			parents[m[1]] = m[2]
		}
	}
	var pids []string
	for pid, parent := range parents {
		if parents[parent] == "" {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return strings.Join(pids, "\n")
}

// checkStatic: the agent's file goes and comes back, and the agent with it; pods stay.
func (l *light) checkStatic(t *testing.T) {
	agent := func() string { return l.processes(t, "node1", "manx-node run") }
	before := agent()
	l.sh(t, "node1", "mv /etc/kubernetes/manifests/manx-node-node1.json /root/aside/")
	eventually(t, "the agent's end", func() error {
		if pid := agent(); pid != "" {
			return fmt.Errorf("it still runs as %s", pid)
		}
		_, err := l.client.CoreV1().Pods("kube-system").Get(t.Context(), "manx-node-node1", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return errors.Join(err, errors.New("its pod is still there"))
		}
		return nil
	})
	l.sh(t, "node1", "mv /root/aside/manx-node-node1.json /etc/kubernetes/manifests/")
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := agent(); after == before || after == "" {
		t.Errorf("the agent was process %q and is %q", before, after)
	}
	l.checkReach(t)
}

// checkControl: pods run on without an API server, are started again, and their status
// follows when it is back. An etcd that is killed comes back by itself.
func (l *light) checkControl(t *testing.T) {
	if err := l.StopNode(t.Context(), "control"); err != nil {
		t.Fatal(err)
	}
	web := l.sh(t, "node1", "pgrep -o -f '[h]ttp-port=8080'")
	l.sh(t, "node1", "kill -KILL "+web)
	eventually(t, "the web server once more", func() error {
		_, err := l.Exec(t.Context(), "node2", "curl", "-sS", "-m", "2", "http://"+netip.AddrPortFrom(l.addrs["web1"][0], 8080).String())
		return err
	})
	if err := l.StartNode(t.Context(), "control"); err != nil {
		t.Fatal(err)
	}
	l.sh(t, "control", "pkill -KILL -x etcd")
	eventually(t, "the restart in the pod's status", func() error {
		p, err := l.pod(t.Context(), "web1")
		if err == nil &&
			(len(p.Status.ContainerStatuses) != 1 || p.Status.ContainerStatuses[0].RestartCount != 1 || !p.Status.ContainerStatuses[0].Ready) {
			err = fmt.Errorf("it says %+v", p.Status.ContainerStatuses)
		}
		return err
	})
}

// checkNodes: a node is added; one that is restarted runs its pods in new networks.
func (l *light) checkNodes(t *testing.T) {
	start := time.Now()
	if err := l.AddNode(t.Context(), "extra"); err != nil {
		t.Fatal(err)
	}
	t.Logf("a node was added after %v", time.Since(start).Round(time.Millisecond))
	l.addPod(t, lab.Pod{Name: "web3", Node: "extra", Port: 8080})
	before, err := l.PodNetNS("node2", "default", "web2")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.RestartNode(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "web2's new network", func() error {
		after, err := l.PodNetNS("node2", "default", "web2")
		if err == nil && filepath.Base(after) == filepath.Base(before) {
			err = errors.New("it is the one from before")
		}
		return err
	})
	if err := l.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "web2 from web1 after a restart of its node", func() error {
		p, err := l.pod(t.Context(), "web2")
		if err != nil {
			return err
		}
		return l.answers(t.Context(), "web1", "http://"+p.Status.PodIP+":8080/hostname", p.Name)
	})
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := s.Print(&out); err != nil || !strings.Contains(out.String(), "light:") || strings.Count(out.String(), " ready") != 4 {
		t.Errorf("status: %v, want a light lab whose four machines are ready:\n%s", err, out.String())
	}
}

// checkHung: who waits for an agent that hangs is told which process is stopped.
func (l *light) checkHung(t *testing.T) {
	agent := func() string { return l.processes(t, "node2", "manx-node run") }
	before := agent()
	l.sh(t, "node2", "kill -KILL "+before)
	eventually(t, "the next agent", func() error {
		pid := agent()
		if pid == "" || pid == before {
			return errors.New("it does not run")
		}
		l.sh(t, "node2", "kill -STOP "+pid)
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := l.WaitReady(ctx)
	if err == nil || !strings.Contains(err.Error(), "is stopped") || !strings.Contains(err.Error(), "lab node restart node2") {
		t.Errorf("wait for a hung agent: %v, want which process is stopped, and the remedy", err)
	}
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Machines {
		if stopped := strings.Contains(m.Agent, "is stopped"); stopped != (m.Name == "node2") {
			t.Errorf("the status of %s says %q", m.Name, m.Agent)
		}
	}
}

// lightKillPoints are as killPoints, for a light lab.
var lightKillPoints = []struct{ name, line, path string }{
	{name: "directory", path: "."},
	{name: "fabric", path: "/run/netns/lab-%s-fabric"},
	{name: "certificates", path: "pki/ca.crt"},
	{name: "plan", path: "light.json"},
	{name: "disk", path: "machines/node1/disk/etc"},
	{name: "first boot", path: "machines/control/init.log"},
	{name: "node's namespace", path: "/run/netns/lab-%s-node1"},
	{name: "API server", line: "the objects of"},
	{name: "agent", path: "machines/node1/disk/var/log/manx-node.log"},
	{name: "by chance"},
}

// TestLightKilledUp: a start of a light lab that is killed, whenever that is, leaves
// nothing after "down". Half of the points find what the one before has left, and make
// room for it by themselves.
func TestLightKilledUp(t *testing.T) {
	name := randomName(t)
	t.Cleanup(func() { takeDown(t, name) })
	l, err := layout.New(name)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range lightKillPoints {
		path := strings.ReplaceAll(p.path, "%s", name)
		if !filepath.IsAbs(path) {
			path = filepath.Join(l.Dir(), path)
		}
		chance := time.Now().Add(time.Duration(rand.IntN(4000)) * time.Millisecond)
		killUp(t, name, func(line string) bool {
			switch {
			case p.line != "":
				return strings.Contains(line, p.line)
			case p.path != "":
				_, err := os.Stat(path)
				return err == nil
			}
			return time.Now().After(chance)
		}, lightEnv+"=1")
		if i%2 == 1 {
			takeDown(t, name)
		}
	}
}

// TestLightFullDisk: a lab on a disk without room is refused, with what to do.
func TestLightFullDisk(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Setenv(layout.RootEnv, filepath.Join(dir, "labs"))
	o := lightOptions()
	o.Name = randomName(t)
	_, err := lab.Up(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "MiB left") || !strings.Contains(err.Error(), layout.RootEnv) {
		t.Errorf("a lab on a full disk: %v, want how much is missing, and the remedy", err)
	}
	takeDown(t, o.Name)
}
