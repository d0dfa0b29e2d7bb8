package controllers

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	v1 "github.com/manx-cni/manx/api/v1"
)

var update = flag.Bool("update", false, "write generated pages instead of comparing them")

func TestSettings(t *testing.T) {
	defaults := Settings{
		Namespace: "kube-system", LogLevel: slog.LevelInfo, Collect: true, LeakGrace: 15 * time.Minute, Host: "localhost", Port: 9094,
	}
	with := func(change func(*Settings)) Settings { s := defaults; change(&s); return s }
	for _, c := range []struct {
		env   []string
		want  Settings
		notes string // in the notes
	}{
		{nil, defaults, ""},
		{[]string{"LEAK_GRACE_PERIOD=", "LOG_LEVEL="}, defaults, ""},
		{[]string{"LEAK_GRACE_PERIOD=2s"}, with(func(s *Settings) { s.LeakGrace = 2 * time.Second }), ""},
		{[]string{"LEAK_GRACE_PERIOD=0"}, with(func(s *Settings) { s.LeakGrace = 0 }), ""},
		{[]string{"ENABLED_CONTROLLERS=node,loadbalancer"}, defaults, "loadbalancer (Calico's; Manx does not have it)"},
		{[]string{"ENABLED_CONTROLLERS=Node, policy , nodes"}, defaults, "policy (Calico's; Manx does not have it), nodes (unknown)"},
		{[]string{"ENABLED_CONTROLLERS=policy"}, with(func(s *Settings) { s.Collect = false }), "policy"},
		{[]string{"LOG_LEVEL=Debug", "METRICS_HOST=0.0.0.0", "METRICS_PORT=19094", "KUBECONFIG=/k", "POD_NAMESPACE=net"},
			Settings{
				Kubeconfig: "/k", Namespace: "net", LogLevel: slog.LevelDebug, Collect: true,
				LeakGrace: 15 * time.Minute, Host: "0.0.0.0", Port: 19094,
			}, ""},
		{[]string{"DATASTORE_TYPE=kubernetes", "HEALTH_ENABLED=true"}, defaults, ""},
		{[]string{"DATASTORE_TYPE=etcdv3"}, defaults, "no effect: the Kubernetes API is the only datastore"},
	} {
		got, notes, err := ParseSettings(c.env)
		if err != nil {
			t.Errorf("%v: %v", c.env, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v:\n%s", c.env, diff)
		}
		if said := strings.Join(notes, "\n"); c.notes == "" && said != "" || !strings.Contains(said, c.notes) {
			t.Errorf("%v: notes %q, want %q", c.env, said, c.notes)
		}
	}
	_, _, err := ParseSettings([]string{"LEAK_GRACE_PERIOD=soon", "METRICS_PORT=0", "LOG_LEVEL=loud"})
	if err == nil || strings.Count(err.Error(), "\n") != 2 ||
		!strings.Contains(err.Error(), `LEAK_GRACE_PERIOD="soon"`) || !strings.Contains(err.Error(), "want 1 to 65535") {
		t.Errorf("three bad values: %v", err)
	}
	if _, _, err := ParseSettings([]string{"LEAK_GRACE_PERIOD=-1m"}); err == nil {
		t.Error("a negative grace period is accepted")
	}
	if a := defaults.Addr(); a != "127.0.0.1:9094" {
		t.Errorf("listens on %s", a)
	}
}

var descText = regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)", unit: "[^"]*", constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}`)

// The page of manx-controllers is made from the definitions; a stale page fails.
func TestReferencePage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# manx-controllers\n\n<!-- Generated from internal/controllers by `make generate`. -->\n\n" +
		"`manx-controllers` runs once in a cluster, as a Deployment. It is configured by environment variables; an empty one\n" +
		"counts as not set, and a bad value stops the start.\n\n## Settings\n\n| variable | default | accepted | meaning |\n|---|---|---|---|\n")
	for _, s := range settings {
		preset := "–"
		if s.preset != "" {
			preset = "`" + s.preset + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.name, preset, s.accepts, s.doc)
	}
	b.WriteString("\nOf the KubeControllersConfiguration `default`, `spec.controllers.node.leakGracePeriod` has an effect. " +
		"Its other settings, also\nones that this version has never heard of, are kept and told of ([objects.md](objects.md)).\n" +
		"\n## Accepted, no effect\n\n| variable | why |\n|---|---|\n")
	for _, c := range compatible {
		fmt.Fprintf(&b, "| `%s` | %s |\n", c.name, c.why)
	}
	b.WriteString("\n## Metrics\n\nServed at `/metrics` by the process that holds the lease, " +
		"beside `manx_build_info` and those of the Go runtime and the\n" +
		"process. `ippool` is `no_ippool` and `node` is `no_node` where there is none.\n\n| metric | labels | meaning |\n|---|---|---|\n")
	ch := make(chan *prometheus.Desc, 64)
	newMetrics().Describe(ch)
	close(ch)
	var rows []string
	for d := range ch {
		f := descText.FindStringSubmatch(d.String())
		if f == nil {
			t.Fatalf("description %q is not understood", d)
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |", f[1], strings.ReplaceAll(f[3], ",", ", "), f[2]))
	}
	slices.Sort(rows)
	b.WriteString(strings.Join(rows, "\n") + "\n")
	b.WriteString(`
## The condition Ready of an IPPool

| status | reason | meaning |
|---|---|---|
| True | ` + "`" + v1.PoolReady + "`" + ` | Addresses are assigned from the pool. |
| False | ` + "`" + v1.PoolDisabled + "`" + ` | ` + "`spec.disabled`" + `: nothing new is assigned, what is in use stays. |
| False | ` + "`" + v1.PoolInvalid + "`" + ` | The pool makes no sense and is ignored; the message says why. |
| False | ` + "`" + v1.PoolOverlaps + "`" + ` | The pool shares addresses with an older one, which the message names, and is ignored. |
| False | ` + "`" + v1.PoolEncapsulation + "`" +
		` | The pool asks for VXLAN, which is not carried: nothing new is assigned, what is in use stays and travels as it is. |
| False | ` + "`" + v1.PoolFinalizing + "`" +
		` | The pool is being deleted and has addresses in use; the message says how many, and on which nodes. |

A pool that is deleted keeps the finalizer ` + "`" + v1.FinalizerPoolInUse + "`" + ` until none of its addresses is in use, and its
routes as long. ` + "`manxctl uninstall`" + ` takes the finalizer off, because without the controllers nobody else does.

## Events

| reason | on | meaning |
|---|---|---|
| ` + "`AddressesReleased`" + ` | Node | Addresses of the node that nobody used were released. |
| ` + "`IPPoolNearlyFull`" + ` | IPPool | 90 % of the pool's addresses are assigned; once, until it has fallen below 85 %. |
| ` + "`IPPoolFull`" + ` | IPPool | Every address of the pool is assigned. |
| ` + "`IPPoolInUse`" + ` | IPPool | The pool's deletion waits for addresses in use. |
| ` + "`SettingWithoutEffect`" +
		` | any object of Calico's | Fields are set that have no effect, see [objects.md](objects.md); once for each change of what is said. |
| ` + "`SettingRefused`" + ` | any object of Calico's | The same, when a node or the pool is not ready for it. |
| ` + "`NetworkPolicyNotEnforced`" + ` | NetworkPolicy | The namespace has NetworkPolicies, which are not enforced; ` +
		`once in a namespace, whose condition ` + "`" + v1.ConditionNamespacePolicy + "`" + ` is False as long as it has some. |

## Objects that are made

The KubeControllersConfiguration ` + "`default`" + `, when there is none: ` + "`calicoctl ipam check`" + ` ends without it.
`)
	path := filepath.Join("..", "..", "docs", "reference", "controllers.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != b.String() {
		t.Fatalf("%s is stale (%v): run make generate", path, err)
	}
}
