// Command demo tells Manx's story on this machine: three real Kubernetes nodes, one
// `kubectl create -f`, pods that talk over routes learned by BGP. Every command is
// shown as one would type it, its output as it is, and after it what was checked.
// It ends with 0 only when every check passed; the lab stays for looking around, and
// while it does, the demo tells the story on it again.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed workload.yaml
var workload string

const nodes = 3

func main() {
	name := flag.String("lab", "demo", "name of the lab to make")
	bin := flag.String("bin", "bin", "folder of the built binaries")
	image := flag.String("image", "build/manx.tar", "the image of the manifest")
	manifest := flag.String("manifest", "manifests/manx.yaml", "what is installed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l := &lab{ctx: ctx, program: filepath.Join(*bin, "lab"), name: *name}
	d := &demo{lab: l, start: time.Now()}
	if err := d.run(*image, *manifest); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		fmt.Fprintf(os.Stderr, "look around: %s kubectl get pods -A -o wide; remove the lab: make demo-down\n", l)
		os.Exit(1)
	}
}

// demo makes the cluster, tells the story, and counts its checks.
type demo struct {
	*lab
	start          time.Time
	passed, failed int
}

func (d *demo) run(image, manifest string) error {
	if _, err := d.output("status"); err == nil {
		if _, err := d.kubectl("get", "pod", "client", "-o", "name"); err != nil {
			return fmt.Errorf("lab %s is there, but not what an earlier demo left (%w); remove it first: make demo-down", d.name, err)
		}
		d.step("lab " + d.name + " is there already: the same story on it (make demo-down removes it)")
	} else if err := d.install(image, manifest); err != nil {
		return err
	}
	if err := d.story(); err != nil {
		return err
	}
	fmt.Printf("\n%d checks passed, %d failed, in %.0f s\n", d.passed, d.failed, time.Since(d.start).Seconds())
	if d.failed > 0 {
		return fmt.Errorf("%d of %d checks failed", d.failed, d.passed+d.failed)
	}
	fmt.Printf("\nThe cluster is yours:\n  %[1]s kubectl get pods -A -o wide\n  %[1]s exec node1 ip route\n"+
		"  %[1]s exec node2 tcpdump -ni eth0 icmp\nmake demo-down removes it.\n", d.lab)
	return nil
}

// install makes the cluster, Manx and the workload.
func (d *demo) install(image, manifest string) error {
	d.step(fmt.Sprintf("a Kubernetes cluster of %d nodes, the image in each", nodes))
	if err := d.through("up", "--nodes", fmt.Sprint(nodes), "--no-cni", "--image", image); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "manx-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	web := filepath.Join(dir, "workload.yaml")
	if err := os.WriteFile(web, []byte(workload), 0o644); err != nil {
		return err
	}
	for _, s := range []struct {
		what string
		args [][]string
	}{
		{"Manx: kubectl create -f " + manifest, [][]string{
			{"create", "-f", manifest},
			{"-n", "kube-system", "rollout", "status", "daemonset/manx-node", "--timeout=180s"},
			{"wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s"},
		}},
		{"a web pod on every node behind NodePort " + nodePort + ", and a client: kubectl create -f test/demo/workload.yaml", [][]string{
			{"create", "-f", web},
			{"rollout", "status", "daemonset/web", "--timeout=120s"},
			{"wait", "--for=condition=Ready", "pod/client", "--timeout=120s"},
		}},
	} {
		d.step(s.what)
		for _, args := range s.args {
			if _, err := d.kubectl(args...); err != nil {
				return d.explain(err)
			}
		}
	}
	d.step("everything runs")
	return nil
}

// explain adds what one looks at first when the cluster does not come up.
func (d *demo) explain(err error) error {
	pods, podsErr := d.kubectl("get", "pods", "-A", "-o", "wide")
	logs, logsErr := d.kubectl("-n", "kube-system", "logs", "-l", "k8s-app=manx-node", "-c", "manx-node", "--tail=20", "--prefix")
	return errors.Join(err, podsErr, logsErr, errors.New("pods:\n"+pods), errors.New("agents' logs:\n"+logs))
}

func (d *demo) step(what string) {
	fmt.Printf("\n── %3.0f s  %s\n", time.Since(d.start).Seconds(), what)
}

// check prints what was checked and, when it does not hold, what was wanted and what is there.
func (d *demo) check(ok bool, what, wanted, got string) {
	if ok {
		d.passed++
		fmt.Printf("   ok    %s\n", what)
		return
	}
	d.failed++
	fmt.Printf("   FAIL  %s: wanted %s, got %s\n", what, wanted, got)
}
