//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/guard"
	"github.com/manx-cni/manx/test/vm"
)

// Environment of the suite.
const (
	imageEnv = "MANX_IMAGE"     // docker archive of the Manx image, for full labs
	kindsEnv = "MANX_E2E_KINDS" // run only the tests of these kinds of labs, such as light,services; see needs_test.go
	reuseEnv = "MANX_E2E_LAB"   // a lab that is up and has Manx: used as it is for every test, and left
)

const manifest = "../../manifests/manx.yaml"

func TestMain(m *testing.M) {
	guard.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// run runs the tests of the kinds of labs that kindsEnv names, all without it: those that
// need ipip in a guest when this kernel has none, the others here.
func run(ctx context.Context, m *testing.M) (code int, err error) {
	flag.Parse()
	if err := widenBacklog(); err != nil {
		return 1, err
	}
	plan, err := readPlan()
	if err != nil {
		return 1, err
	}
	theSuite.joined = os.Getenv(joinedEnv)
	selection := flag.Lookup("test.run").Value.String()
	tests, err := only(plan, strings.FieldsFunc(os.Getenv(kindsEnv), func(r rune) bool { return r == ',' }), selection)
	if err != nil {
		return 1, err
	}
	here, guests := tests, map[string][]planned{}
	if theSuite.joined == "" && !vm.HasIPIP() {
		here = slices.DeleteFunc(slices.Clone(tests), func(p planned) bool { return p.kind.tunnels() })
		for _, p := range tests {
			if p.kind.tunnels() {
				guests[p.kind.name] = append(guests[p.kind.name], p)
			}
		}
	}
	if len(here) < len(plan) { // else what go test was given stands
		_, parts, _ := strings.Cut(selection, "/")
		if parts != "" {
			parts = "/" + parts
		}
		if err := flag.Set("test.run", pattern(append(here, labless(selection)...))+parts); err != nil {
			return 1, err
		}
	}
	for _, p := range here {
		theSuite.left[p.kind.name]++
	}
	if len(here) > 0 || len(guests) == 0 {
		defer func() { err = errors.Join(err, theSuite.close()) }()
		done := make(chan int, 1)
		go func() { done <- m.Run() }()
		select {
		case code = <-done:
		case <-ctx.Done():
			return 1, errors.New("interrupted")
		}
	}
	for _, k := range kinds {
		if tests := guests[k.name]; len(tests) > 0 {
			start := time.Now()
			c, err := runInGuest(ctx, complete(k), tests)
			if err != nil {
				return 1, err
			}
			fmt.Fprintf(os.Stderr, "%d tests on the lab %q in a guest: %.0f s, exit code %d\n", len(tests), k.name, time.Since(start).Seconds(), c)
			code = max(code, c)
		}
	}
	return code, nil
}

// families is how many addresses a pod has, and sessions a node with another.
func families() int {
	if shape.DualStack {
		return 2
	}
	return 1
}

// install gives a new lab what every test uses: Manx, where the lab has not brought it
// up itself, and a web pod on every node behind NodePort 32000.
func install(ctx context.Context) error {
	if shape.Light {
		return webOnLight(ctx)
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

// editedManifest is the manifest for a full lab's mode. The kernel at hand may have no
// ipip: what needs it runs on light labs, in a guest.
func editedManifest() ([]byte, error) { return lab.ManifestForMode(manifest, shape.Mode) }

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
