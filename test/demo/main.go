// Command demo tells Manx's story on this machine: three real Kubernetes nodes, one
// `kubectl create -f`, pods that talk over routes learned by BGP. Every command is
// shown as one would type it, its output as it is, and after it what was checked.
// It ends with 0 only when every check passed; the lab stays for looking around.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

//go:embed workload.yaml
var workload string

const (
	nodes    = 3
	nodePort = "32000"
)

// demo runs bin/lab and counts checks.
type demo struct {
	ctx            context.Context
	lab, name      string
	start          time.Time
	passed, failed int
}

func main() {
	name := flag.String("lab", "demo", "name of the lab to make")
	bin := flag.String("bin", "bin", "folder of the built binaries")
	image := flag.String("image", "build/manx.tar", "the image of the manifest")
	manifest := flag.String("manifest", "manifests/manx.yaml", "what is installed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{ctx: ctx, lab: filepath.Join(*bin, "lab"), name: *name, start: time.Now()}
	if err := d.run(*image, *manifest); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		fmt.Fprintf(os.Stderr, "look around: MANX_LAB=%s %s kubectl -- get pods -A; remove: make demo-down\n", d.name, d.lab)
		os.Exit(1)
	}
}

func (d *demo) run(image, manifest string) error {
	if _, err := d.output("status"); err == nil {
		return fmt.Errorf("lab %s is there already: make demo-down first", d.name)
	}
	if err := d.install(image, manifest); err != nil {
		return err
	}
	if err := d.story(); err != nil {
		return err
	}
	fmt.Printf("\n%d checks passed, %d failed, in %d s\n", d.passed, d.failed, int(time.Since(d.start).Seconds()))
	if d.failed > 0 {
		return fmt.Errorf("%d of %d checks failed", d.failed, d.passed+d.failed)
	}
	fmt.Printf("\nThe cluster is yours to look at:\n  MANX_LAB=%[2]s %[1]s kubectl -- get pods -A -o wide\n  MANX_LAB=%[2]s %[1]s exec node1 ip route\nmake demo-down removes it.\n", d.lab, d.name)
	return nil
}

// install makes the cluster, Manx and the workload.
func (d *demo) install(image, manifest string) error {
	dir, err := os.MkdirTemp("", "manx-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	web := filepath.Join(dir, "workload.yaml")
	if err := os.WriteFile(web, []byte(workload), 0o644); err != nil {
		return err
	}
	d.step("a Kubernetes cluster of three nodes")
	if err := d.through("up", "--nodes", fmt.Sprint(nodes), "--no-cni"); err != nil {
		return err
	}
	d.step("the image into every node")
	if err := d.through("load-image", image); err != nil {
		return err
	}
	d.step("kubectl create -f " + manifest)
	for _, args := range [][]string{
		{"create", "-f", manifest},
		{"-n", "kube-system", "rollout", "status", "daemonset/manx-node", "--timeout=180s"},
		{"wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s"},
		{"create", "-f", web},
		{"rollout", "status", "daemonset/web", "--timeout=120s"},
		{"wait", "--for=condition=Ready", "pod/client", "--timeout=120s"},
	} {
		if _, err := d.kubectl(args...); err != nil {
			return err
		}
	}
	d.step("running")
	return nil
}

// pod is what the story needs of a pod.
type pod struct{ Name, IP, Node, HostIP string }

func (d *demo) pods() (map[string]pod, error) {
	raw, err := d.kubectl("get", "pods", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
			Status   struct{ PodIP, HostIP string }
		}
	}
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		return nil, err
	}
	out := map[string]pod{}
	for _, i := range list.Items {
		out[i.Metadata.Name] = pod{i.Metadata.Name, i.Status.PodIP, i.Spec.NodeName, i.Status.HostIP}
	}
	return out, nil
}

var (
	routeLine = regexp.MustCompile(`(?m)^10\.244\.\d+\.\d+/26 via 172\.\S+ dev eth0 proto manx *$`)
	ownLine   = regexp.MustCompile(`(?m)^blackhole 10\.244\.\d+\.\d+/26 proto manx *$`)
)

// story shows what a user would look at, and checks it.
func (d *demo) story() error {
	if _, err := d.show("get", "pods", "-o", "wide"); err != nil {
		return err
	}
	pods, err := d.pods()
	if err != nil {
		return err
	}
	client := pods["client"]
	var far []pod // web pods on other nodes
	for _, p := range pods {
		if strings.HasPrefix(p.Name, "web-") && p.Node != client.Node {
			far = append(far, p)
		}
	}
	d.check(len(pods) == nodes+1 && len(far) == nodes-1, "a web pod on every node and the client have addresses", "%d pods, %d on other nodes", len(pods), len(far))

	for i := range nodes {
		node := fmt.Sprintf("node%d", i+1)
		fmt.Printf("\n%s $ ip route\n", node)
		want := func(out string) bool {
			return len(routeLine.FindAllString(out, -1)) == nodes-1 && len(ownLine.FindAllString(out, -1)) == 1
		}
		out := d.until(want, "exec", node, "ip", "route")
		fmt.Print(out)
		d.check(want(out), fmt.Sprintf("%s has its own block as a blackhole and a route to each other node's block", node), "see above")
	}
	for _, p := range far {
		out, _ := d.show("exec", "client", "--", "ping", "-c", "3", "-i", "0.2", "-W", "2", p.IP)
		d.check(strings.Contains(out, "ttl=62") && strings.Contains(out, " 0% packet loss"), fmt.Sprintf("the client on %s reaches %s on %s, two hops away (ttl 62)", client.Node, p.IP, p.Node), "see above")
	}
	out, _ := d.show("exec", "client", "--", "curl", "-sS", "-m", "5", "http://"+far[0].HostIP+":"+nodePort+"/hostname")
	d.check(strings.HasPrefix(out, "web-"), "NodePort "+nodePort+" answers from a pod", "%q", out)

	out, _ = d.show("-n", "kube-system", "exec", "daemonset/manx-node", "-c", "manx-node", "--", "manxctl", "status")
	d.check(strings.Count(out, "Established") == nodes-1, "BGP sessions with both other nodes are Established", "see above")
	if d.ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return nil
}

func (d *demo) step(what string) {
	fmt.Printf("\n── %3d s  %s\n", int(time.Since(d.start).Seconds()), what)
}

func (d *demo) check(ok bool, what, got string, args ...any) {
	if ok {
		d.passed++
		fmt.Printf("   ok    %s\n", what)
		return
	}
	d.failed++
	fmt.Printf("   FAIL  %s: %s\n", what, fmt.Sprintf(got, args...))
}

// show runs kubectl as a user would and prints command and output.
func (d *demo) show(args ...string) (string, error) {
	fmt.Printf("\n$ kubectl %s\n", strings.Join(args, " "))
	out, err := d.kubectl(args...)
	fmt.Print(out)
	if err != nil {
		fmt.Println(err)
	}
	return out, err
}

func (d *demo) kubectl(args ...string) (string, error) {
	return d.output(append([]string{"kubectl", "--"}, args...)...)
}

// until repeats a lab command until its output is as wanted, for ten seconds at
// most: routes follow pods within moments.
func (d *demo) until(ok func(string) bool, args ...string) string {
	deadline := time.Now().Add(10 * time.Second)
	for {
		out, _ := d.output(args...)
		if ok(out) || time.Now().After(deadline) || d.ctx.Err() != nil {
			return out
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// command is a lab command on the demo's lab.
func (d *demo) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.ctx, d.lab, args...)
	cmd.Env = append(os.Environ(), "MANX_LAB="+d.name)
	return cmd
}

// output runs a lab command and returns what it prints.
func (d *demo) output(args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := d.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// through runs a lab command whose progress the user sees.
func (d *demo) through(args ...string) error {
	cmd := d.command(args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
