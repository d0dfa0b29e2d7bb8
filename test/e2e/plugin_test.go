//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/manx-cni/manx/test/lab"
)

const netconf = `{"name":"k8s-pod-network","cniVersion":"1.0.0","type":"manx","ipam":{"type":"manx-ipam"}}`

// cniError is what a plugin prints when it fails.
type cniError struct {
	Code         int
	Msg, Details string
}

// cni runs the plugin as a node's runtime does, for a container of namespace default.
func cni(t *testing.T, node, command, container, conf string) (string, *cniError, time.Duration) {
	t.Helper()
	out, e, took, err := runCNI(node, command, container, conf, "")
	if err != nil {
		t.Fatal(err)
	}
	return out, e, took
}

// runCNI is cni for any goroutine. The container has the name of its pod; podUID may be empty.
func runCNI(node, command, container, conf, podUID string) (string, *cniError, time.Duration, error) {
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // it also cleans up, when t.Context has ended
	defer cancel()
	args := "K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + container
	if podUID != "" {
		args += ";K8S_POD_UID=" + podUID
	}
	start := time.Now()
	p, err := cluster.Start(ctx, node, lab.ExecOptions{
		Env: []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + container, "CNI_NETNS=/run/netns/" + container,
			"CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "CNI_ARGS=" + args,
		},
		Stdin: strings.NewReader(conf), Stdout: &stdout, Stderr: &stderr,
	}, "/opt/cni/bin/manx")
	if err != nil {
		return "", nil, 0, err
	}
	err = p.Wait()
	took := time.Since(start)
	if err == nil {
		return stdout.String(), nil, took, nil
	}
	e := &cniError{}
	if json.Unmarshal(stdout.Bytes(), e) != nil {
		return "", nil, took, fmt.Errorf("CNI %s of %s: %w: %s%s", command, container, err, stdout.String(), stderr.String())
	}
	return stdout.String(), e, took, nil
}

// scratch makes a network namespace on a node for a container that only this test knows.
func scratch(t *testing.T, node, container string) {
	t.Helper()
	on(t, node, "ip", "netns", "add", container)
	t.Cleanup(func() {
		cni(t, node, "DEL", container, netconf)
		_, _ = cluster.Exec(context.Background(), node, "ip", "netns", "del", container)
	})
}

// owned is what IPAM holds for a container of the scratch kind.
func owned(ctx context.Context, container string) ([]string, error) {
	s, err := readIPAM(ctx)
	if err != nil {
		return nil, err
	}
	return s.pods["default/"+container], nil
}

// TestAgentAway: without an answer from the agent an ADD fails soon with "try again
// later", and a DEL succeeds and is made up for when the agent is back.
func TestAgentAway(t *testing.T) {
	onLab(t)
	const node = awayNode
	const soon = 2 * time.Second
	for _, c := range []struct {
		name string
		away func(t *testing.T) (back func())
	}{
		{"stopped", stopAgent}, {"dead", killAgent},
	} {
		t.Run(c.name, func(t *testing.T) {
			held, refused := "e2e-held-"+c.name, "e2e-refused-"+c.name
			scratch(t, node, held)
			scratch(t, node, refused)
			if _, e, _ := cni(t, node, "ADD", held, netconf); e != nil {
				t.Fatalf("ADD with the agent there: %+v", e)
			}
			if got, err := owned(t.Context(), held); err != nil || len(got) != 1 {
				t.Fatalf("IPAM holds %v for %s (%v), want one address", got, held, err)
			}
			back := c.away(t)
			_, e, took := cni(t, node, "ADD", refused, netconf)
			t.Logf("ADD failed after %v: %+v", took.Round(time.Millisecond), e)
			if e == nil || e.Code != 11 || took >= soon {
				t.Errorf("ADD took %v and ended with %+v; want code 11 within %v", took, e, soon)
			}
			_, e, took = cni(t, node, "DEL", held, netconf)
			t.Logf("DEL took %v", took.Round(time.Millisecond))
			if e != nil {
				t.Errorf("DEL failed: %+v", e)
			}
			if out := on(t, node, "ip", "-o", "link", "show"); strings.Contains(out, hostIface(newPod("default", held, node, ""))) {
				t.Errorf("the interface of %s is still there after DEL:\n%s", held, out)
			}
			if got, err := owned(t.Context(), held); err != nil || len(got) != 1 {
				t.Errorf("IPAM holds %v (%v): who released it without an agent?", got, err)
			}
			back()
			for _, container := range []string{held, refused} {
				eventually(t, "release of what the agent missed", func(ctx context.Context) error {
					if got, err := owned(ctx, container); err != nil || len(got) != 0 {
						return fmt.Errorf("IPAM holds %v for %s (%v)", got, container, err)
					}
					return nil
				})
			}
			agent(t, node)
			noLeak(t)
		})
	}
}

const awayNode = "node3"

// stopAgent freezes the agent: its socket accepts connections and no one answers.
func stopAgent(t *testing.T) (back func()) {
	pid := pidOf(t, agent(t, awayNode))
	kill(t, pid, unix.SIGSTOP)
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGCONT) })
	return func() { kill(t, pid, unix.SIGCONT) }
}

// killAgent kills the agent while the kubelet is frozen, so that no new one is started.
func killAgent(t *testing.T) (back func()) {
	pod := agent(t, awayNode)
	thaw := freezeKubelet(t, awayNode)
	kill(t, pidOf(t, pod), unix.SIGKILL)
	return func() {
		thaw()
		restarted(t, awayNode, pod.Status.ContainerStatuses[0].RestartCount)
	}
}

// machineProcess finds a component of a machine: a child of the machine's PID 1.
func machineProcess(t *testing.T, machine, name string) int {
	t.Helper()
	init, err := initOf(machine)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", init))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		children, _ := os.ReadFile(f) // a thread that has ended has none
		for pid := range strings.FieldsSeq(string(children)) {
			if comm, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && strings.TrimSpace(string(comm)) == name {
				n, err := strconv.Atoi(pid)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	t.Fatalf("no %s runs on %s", name, machine)
	return 0
}

// initOf is a machine's PID 1, as this machine numbers it.
func initOf(machine string) (int, error) {
	machines, err := cluster.Machines()
	if err != nil {
		return 0, err
	}
	for _, m := range machines {
		if m.Name == machine && m.Init.PID != 0 {
			return m.Init.PID, nil
		}
	}
	return 0, fmt.Errorf("no machine %s is switched on", machine)
}

// rootOf is where this machine sees the root directory of another.
func rootOf(machine string) (string, error) {
	init, err := initOf(machine)
	return fmt.Sprintf("/proc/%d/root", init), err
}
