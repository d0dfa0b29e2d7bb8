// Command demo tells Manx's story on this machine: three real Kubernetes nodes, one
// `kubectl create -f`, pods that talk over routes learned by BGP, plainly or through
// IPIP tunnels. Every command is shown as one would type it, its output as it is, and
// after it what was checked. It ends with 0 only when every check passed; the lab
// stays for looking around, and while it does, the demo tells the story on it again.
//
// A mode with tunnels on a kernel without ipip is shown in a guest with another
// kernel (package vm), which ends with the story.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/manx-cni/manx/internal/cmdline"
	testlab "github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/kubebuild"
	"github.com/manx-cni/manx/test/vm"
)

//go:embed workload.yaml
var workload string

func main() {
	name := flag.String("lab", "demo", "name of the lab to make")
	modeName := flag.String("mode", "bgp", "how pods on different nodes reach each other: "+modeNames())
	guest := flag.Bool("guest", false, "this is the guest: the lab ends with it (set by the demo itself)")
	bin := flag.String("bin", "bin", "folder of the built binaries")
	image := flag.String("image", "build/manx.tar", "the image of the manifest")
	manifest := flag.String("manifest", "manifests/manx.yaml", "what is installed")
	cmdline.ParseFlags()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m, err := modeNamed(*modeName)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	if m.tunnels() && !*guest && !vm.HasIPIP() {
		os.Exit(inGuest(ctx, filepath.Join(*bin, "lab"), *image))
	}
	d := &demo{
		lab:  &lab{ctx: ctx, program: filepath.Join(*bin, "lab"), name: *name, patience: patience(*guest)},
		mode: m, guest: *guest, start: time.Now(),
	}
	if err := d.run(*image, *manifest); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n%s\n", err, d.afterFailure())
		os.Exit(1)
	}
}

// patience bounds each wait for what follows from an earlier step within moments. An
// emulated guest takes a multiple of a machine's time.
func patience(guest bool) time.Duration {
	if guest {
		return 3 * time.Minute
	}
	return 30 * time.Second
}

// demo makes the cluster, tells the story, and counts its checks.
type demo struct {
	*lab
	mode           mode
	guest          bool
	start          time.Time
	passed, failed int
}

func (d *demo) run(image, manifest string) error {
	if _, err := d.output("status"); err == nil {
		if err := d.suits(); err != nil {
			return fmt.Errorf("lab %s is there, but not what an earlier demo left in mode %s (%w); remove it first: make demo-down",
				d.name, d.mode.name, err)
		}
		d.step("lab " + d.name + " is there already: the same story on it (make demo-down removes it)")
		if from := os.Getenv(kubebuild.SourceEnv); from != "" {
			fmt.Printf("the programs of its Kubernetes stay: those of %s are for a new lab (make demo-down first)\n", from)
		}
	} else if err := d.install(image, manifest); err != nil {
		return err
	}
	if err := d.story(); err != nil {
		return err
	}
	if d.mode.routers > 0 {
		web, _, err := d.pods()
		if err != nil {
			return err
		}
		if err := d.behindRouters(web); err != nil {
			return err
		}
	}
	fmt.Printf("\n%d checks passed, %d failed, in %.0f s\n", d.passed, d.failed, time.Since(d.start).Seconds())
	if d.failed > 0 {
		return fmt.Errorf("%d of %d checks failed", d.failed, d.passed+d.failed)
	}
	if d.guest {
		fmt.Println("\nThe cluster ends here, with the guest it ran in. On a kernel with ipip it would stay.")
		return nil
	}
	fmt.Printf("\nThe cluster is yours:\n  %[1]s kubectl get pods -A -o wide\n  %[1]s exec node1 ip route\n"+
		"  %[1]s exec node2 tcpdump -ni eth0 '%[2]s'\nmake demo-down removes it.\n", d.lab, wireFilter)
	return nil
}

// suits says what keeps the story from being told on the lab that is there.
func (d *demo) suits() error {
	if _, err := d.kubectl("get", "pod", "client", "-o", "name"); err != nil {
		return err
	}
	pools, err := d.kubectl("get", "ippools.crd.projectcalico.org", "-o", "jsonpath={.items[*].spec.ipipMode}")
	if err != nil {
		return err
	}
	if pools != d.mode.ipip {
		return fmt.Errorf("the ipipMode of its pools is %q, want %q", pools, d.mode.ipip)
	}
	if _, err := d.output("exec", "behind", "true"); (err == nil) != (d.mode.routers > 0) {
		return fmt.Errorf("it has top-of-rack routers: %t, want %t", err == nil, d.mode.routers > 0)
	}
	web, _, err := d.pods()
	if err != nil {
		return err
	}
	subnets := map[netip.Prefix]bool{}
	for _, p := range web {
		subnets[subnet(p.HostIP)] = true
	}
	if len(web) != d.mode.nodes || len(subnets) != d.mode.subnets {
		return fmt.Errorf("it has %d nodes in %d subnets, want %d in %d", len(web), len(subnets), d.mode.nodes, d.mode.subnets)
	}
	return nil
}

// install makes the cluster, Manx and the workload.
func (d *demo) install(image, manifest string) error {
	d.step(fmt.Sprintf("a Kubernetes cluster of %d nodes%s, the image in each", d.mode.nodes, d.mode.place()))
	content, err := testlab.ManifestForMode(manifest, d.mode.name)
	if err != nil {
		return err
	}
	up := []string{"up", "--nodes", fmt.Sprint(d.mode.nodes), "--subnets", fmt.Sprint(d.mode.subnets), "--no-cni", "--image", image}
	if d.mode.routers > 0 {
		up = append(up, "--tor", "bird", "--tors", fmt.Sprint(d.mode.routers))
	}
	if err := d.through(up...); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "manx-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	manx, web := filepath.Join(dir, "manx.yaml"), filepath.Join(dir, "workload.yaml")
	if err := errors.Join(os.WriteFile(manx, content, 0o644), os.WriteFile(web, []byte(workload), 0o644)); err != nil {
		return err
	}
	rollout, ready := "--timeout="+(6*d.patience).String(), "--timeout="+(4*d.patience).String()
	for _, s := range []struct {
		what string
		args [][]string
	}{
		{"Manx: kubectl create -f " + manifest + ", with CALICO_IPV4POOL_IPIP=" + d.mode.ipip + " in it", [][]string{
			{"create", "-f", manx},
			{"-n", "kube-system", "rollout", "status", "daemonset/manx-node", rollout},
			{"wait", "--for=condition=Ready", "nodes", "--all", ready},
		}},
		{"a web pod on every node behind NodePort " + nodePort + ", and a client: kubectl create -f test/demo/workload.yaml", [][]string{
			{"create", "-f", web},
			{"rollout", "status", "daemonset/web", ready},
			{"wait", "--for=condition=Ready", "pod/client", ready},
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

// afterFailure says how to look further. A guest is gone by then, so what one would
// look at first is shown at once, unless it has been.
func (d *demo) afterFailure() string {
	ends := errors.New("the cluster ends here, with the guest it ran in")
	switch {
	case !d.guest:
		return fmt.Sprintf("look around: %s kubectl get pods -A -o wide; remove the lab: make demo-down", d.lab)
	case d.failed > 0:
		return d.explain(ends).Error()
	}
	return ends.Error()
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
