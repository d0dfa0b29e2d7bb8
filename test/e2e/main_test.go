//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
)

// Environment of the suite.
const (
	imageEnv = "MANX_IMAGE"   // docker archive of the Manx image
	reuseEnv = "MANX_E2E_LAB" // a lab that is up and has Manx: used as it is, and left
	guardEnv = "MANX_E2E_GUARD"

	// The shape of the lab, also of one that is used again.
	modeEnv     = "MANX_E2E_MODE"     // bgp (default), ipip or crosssubnet
	nodesEnv    = "MANX_E2E_NODES"    // 3
	subnetsEnv  = "MANX_E2E_SUBNETS"  // 1
	mtuEnv      = "MANX_E2E_MTU"      // 1500
	familiesEnv = "MANX_E2E_FAMILIES" // ipv4 (default) or dual
)

const manifest = "../../manifests/manx.yaml"

// cluster and client are the one lab that all tests share, with Manx and the web pods
// in it; shape is what was asked of it.
var (
	cluster *lab.Cluster
	client  *kubernetes.Clientset
	shape   lab.Options
)

func TestMain(m *testing.M) {
	if name := os.Getenv(guardEnv); name != "" {
		os.Exit(guard(name))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// run brings the cluster up, runs the tests, and takes it down whatever happened.
func run(ctx context.Context, m *testing.M) (code int, err error) {
	if shape, err = readShape(); err != nil {
		return 1, err
	}
	if err := widenBacklog(); err != nil {
		return 1, err
	}
	if name := os.Getenv(reuseEnv); name != "" {
		if cluster, err = lab.Open(name); err != nil {
			return 1, err
		}
	} else {
		var down func() error
		if down, err = bringUp(ctx); down != nil {
			defer func() { err = errors.Join(err, down()) }()
		}
	}
	if err == nil {
		err = install(ctx)
	}
	if err == nil {
		done := make(chan int, 1)
		go func() { done <- m.Run() }()
		select {
		case code = <-done:
		case <-ctx.Done():
			return 1, errors.New("interrupted")
		}
	}
	if (err != nil || code != 0) && cluster != nil && ctx.Err() == nil {
		diagnose(ctx, os.Stderr)
	}
	return code, err
}

// readShape reads the environment.
func readShape() (o lab.Options, err error) {
	o = lab.Options{Mode: "bgp", Nodes: 3, Subnets: 1, MTU: fabric.DefaultMTU}
	if m := os.Getenv(modeEnv); m != "" {
		o.Mode = m
	}
	for _, number := range []struct {
		name string
		into *int
	}{{nodesEnv, &o.Nodes}, {subnetsEnv, &o.Subnets}, {mtuEnv, &o.MTU}} {
		if text := os.Getenv(number.name); text != "" {
			if *number.into, err = strconv.Atoi(text); err != nil {
				return o, fmt.Errorf("%s: %w", number.name, err)
			}
		}
	}
	switch text := os.Getenv(familiesEnv); text {
	case "", "ipv4":
	case "dual":
		o.DualStack = true
	default:
		return o, fmt.Errorf("%s=%s: want ipv4 or dual", familiesEnv, text)
	}
	return o, nil
}

// families is how many addresses a pod has, and sessions a node with another.
func families() int {
	if shape.DualStack {
		return 2
	}
	return 1
}

// bringUp starts a lab with the Manx image on its nodes. Its removal is the work of a
// guard: this program again, in a process group of its own, which does it when its
// standard input ends. So the lab also goes when a test panics, times out or is killed.
func bringUp(ctx context.Context) (down func() error, err error) {
	archive := os.Getenv(imageEnv)
	if archive == "" {
		return nil, fmt.Errorf("%s is not set: it names the archive of the Manx image; \"make e2e\" makes both, \"make image\" the archive", imageEnv)
	}
	if _, err := os.Stat(archive); err != nil {
		return nil, fmt.Errorf("%s: %w; \"make image\" makes it", imageEnv, err)
	}
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	name := "e2e" + hex.EncodeToString(id)
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	watch := exec.Command(self)
	watch.Env = append(os.Environ(), guardEnv+"="+name)
	watch.Stdout, watch.Stderr = os.Stderr, os.Stderr
	watch.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := watch.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := watch.Start(); err != nil {
		return nil, fmt.Errorf("start the lab's guard: %w", err)
	}
	down = func() error { return errors.Join(pipe.Close(), watch.Wait()) }
	o := shape
	o.Name, o.Images, o.Progress = name, []string{archive}, func(s string) { fmt.Fprintln(os.Stderr, "lab", name+":", s) }
	o.Mode = "" // install has its own manifest
	// TestIPAMRequests counts in the log. An emulated machine runs other tests.
	o.Audit = !emulated()
	cluster, err = lab.Up(ctx, o)
	return down, err
}

// guard waits for the end of its standard input and takes the lab down.
func guard(name string) int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if err := lab.Down(ctx, name, nil); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: take lab %s down: %v\n", name, err)
		return 1
	}
	return 0
}

// install creates what every test uses: Manx, and a web pod on every node behind NodePort 32000.
func install(ctx context.Context) (err error) {
	if client, err = cluster.Clientset(); err != nil {
		return err
	}
	create := func(what, namespace, daemonset string, stdin io.Reader, file string) error {
		if _, err := cluster.Kubectl(ctx, "-n", namespace, "get", "daemonset", daemonset); err == nil {
			return nil // the lab is used again
		}
		var out strings.Builder
		o := lab.ExecOptions{Stdin: stdin, Stdout: &out, Stderr: &out}
		if err := cluster.KubectlWith(ctx, o, "create", "-f", file); err != nil {
			return fmt.Errorf("create %s: %w: %s", what, err, out.String())
		}
		return nil
	}
	edited, err := editedManifest()
	if err != nil {
		return err
	}
	if err := create("Manx", "kube-system", "manx-node", bytes.NewReader(edited), "-"); err != nil {
		return err
	}
	start := time.Now()
	if err := rolledOut(ctx, "kube-system", "manx-node"); err != nil {
		return err
	}
	if err := cluster.WaitReady(ctx); err != nil {
		return err
	}
	err = until(ctx, "deployment manx-controllers", func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments("kube-system").Get(ctx, "manx-controllers", metav1.GetOptions{})
		if err == nil && (d.Status.ObservedGeneration < d.Generation || d.Status.ReadyReplicas < 1) {
			err = fmt.Errorf("%d replicas are ready", d.Status.ReadyReplicas)
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "Manx ready %.1f s after kubectl create\n", time.Since(start).Seconds())
	if err := create("the web pods", "default", "web", strings.NewReader(webManifest), "-"); err != nil {
		return err
	}
	return rolledOut(ctx, "default", "web")
}

// rolledOut waits for the pods of a DaemonSet. It does not ask through kubectl, which
// gives an API server 10 s to shake hands: an emulated one that is busy needs more.
func rolledOut(ctx context.Context, namespace, name string) error {
	return until(ctx, "daemonset "+name, func(ctx context.Context) error {
		d, err := client.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		s := &d.Status
		if err == nil && (s.ObservedGeneration < d.Generation || s.DesiredNumberScheduled == 0 || s.NumberReady < s.DesiredNumberScheduled) {
			err = fmt.Errorf("%d of %d pods are ready", s.NumberReady, s.DesiredNumberScheduled)
		}
		return err
	})
}

// until waits for what there is no test yet to fail.
func until(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(pollEvery):
		}
	}
}

// editedManifest is the manifest for the lab's mode and families. The kernel at hand may
// have no ipip: what needs it runs in a guest (package vm).
func editedManifest() ([]byte, error) {
	edited, err := lab.ManifestForMode(manifest, shape.Mode)
	if err == nil && shape.DualStack {
		edited, err = lab.DualStackManifest(edited)
	}
	if err == nil && emulated() {
		// By its requests a container gets its share of a CPU that everybody wants.
		request := []byte("cpu: 100m")
		if !bytes.Contains(edited, request) {
			return nil, fmt.Errorf("the agents of %s do not request %q", manifest, request)
		}
		edited = bytes.ReplaceAll(edited, request, []byte("cpu: 900m"))
	}
	return edited, err
}

// diagnose prints what one needs to understand a failure.
func diagnose(ctx context.Context, w io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	show := func(out string, err error) string {
		if err != nil {
			return out + "\n(" + err.Error() + ")"
		}
		return out
	}
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector", "type=Warning"},
		{"get", "ippools.crd.projectcalico.org,ipamblocks,blockaffinities", "-o", "wide"},
		{"-n", "kube-system", "logs", "-l", "k8s-app=manx-node", "-c", "manx-node", "--tail=60", "--prefix"},
		{"-n", "kube-system", "logs", "-l", "k8s-app=manx-controllers", "--tail=60", "--prefix"},
	} {
		fmt.Fprintf(w, "\n--- kubectl %s\n%s\n", strings.Join(args, " "), show(cluster.Kubectl(ctx, args...)))
	}
	nodes, err := cluster.Nodes()
	if err != nil {
		fmt.Fprintln(w, err)
	}
	for _, node := range nodes {
		fmt.Fprintf(w, "\n--- %s: ip route\n%s", node, show(cluster.Exec(ctx, node, "ip", "route")))
		if shape.DualStack {
			fmt.Fprintf(w, "--- %s: ip -6 route\n%s", node, show(cluster.Exec(ctx, node, "ip", "-6", "route")))
		}
		fmt.Fprintf(w, "--- %s: ip -d addr\n%s", node, show(cluster.Exec(ctx, node, "ip", "-d", "addr")))
		fmt.Fprintf(w, "--- %s: nft list ruleset\n%s", node, show(cluster.Exec(ctx, node, "nft", "list", "ruleset")))
	}
}
