package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	apiv1 "github.com/manx-cni/manx/api/v1"
	"github.com/manx-cni/manx/internal/ipamreport"
	"github.com/manx-cni/manx/ipam/block"
)

func TestIPAMShow(t *testing.T) {
	c := newIPAMCluster(t)
	c.put(apiv1.PluralIPReservations, "IPReservation", "router",
		apiv1.IPReservationSpec{ReservedCIDRs: []string{"10.244.1.0/30", "10.244.1.9"}})
	c.claim("node2", "10.9.0.0/28", func(b *block.Block) { b.Assign(block.Owner{Handle: "x"}, 1, nil) })
	for name, o := range map[string]ipamShowOptions{
		"show": {}, "show-blocks": {blocks: true}, "show-borrowed": {borrowed: true}, "show-configuration": {configuration: true},
		"show-ip-free": {ip: "10.244.0.9"}, "show-ip-used": {ip: "10.244.0.1"}, "show-ip-borrowed": {ip: "10.244.0.2"},
		"show-ip-no-attributes": {ip: "10.9.0.0"}, "show-ip-nowhere": {ip: "192.0.2.77"}, "show-ip-no-block": {ip: "fd00:1::5"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := o.run(t.Context(), &out, c.access()); err != nil {
				t.Fatal(err)
			}
			golden(t, "ipam-"+name, out.String())
		})
	}
	for _, op := range c.backend.TakeOps() {
		if op.Write() && op.Verb != "create" { // the fixture's
			t.Errorf("show wrote: %s", op)
		}
	}
}

func TestIPAMShowEmptyAndMalformed(t *testing.T) {
	c := newIPAMCluster(t)
	c.backend.PutRaw(apiv1.PluralIPAMBlocks, "10-244-7-0-26", `{"metadata":{"name":"10-244-7-0-26"},"spec":"?"}`)
	c.change(blockA, func(b *block.Block) { b.ReleaseHandle("net.db") })
	var out bytes.Buffer
	if err := (&ipamShowOptions{borrowed: true}).run(t.Context(), &out, c.access()); err != nil {
		t.Fatal(err)
	}
	golden(t, "ipam-show-borrowed-none", out.String())
	err := (&ipamShowOptions{ip: "10.244.7.1"}).run(t.Context(), &out, c.access())
	wantError(t, err, "block 10.244.7.0/26, which has 10.244.7.1, is malformed", "kubectl get ipamblock 10-244-7-0-26")
	err = (&ipamShowOptions{ip: "10.244.7.0/26"}).run(t.Context(), &out, c.access())
	wantError(t, err, `--ip="10.244.7.0/26": want an address such as 10.244.0.5`)
}

func TestIPAMCheck(t *testing.T) {
	c := newIPAMCluster(t)
	check := func(o ipamCheckOptions) (string, error) {
		var out bytes.Buffer
		err := o.run(t.Context(), &out, c.access())
		return out.String(), err
	}
	out, err := check(ipamCheckOptions{text: ipamreport.TextOptions{ProblemIPs: true}})
	wantError(t, err, "found 1 problem")
	golden(t, "ipam-check", out)

	out, err = check(ipamCheckOptions{output: reportOutput{output: output{asJSON}}})
	wantError(t, err, "found 1 problem")
	var r ipamreport.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.ClusterGUID != "abc" ||
		len(r.Allocations) != 4 || len(r.Problems) != 1 || r.Problems[0].Kind != ipamreport.Leaked {
		t.Errorf("%v in %s", err, out)
	}

	// Without its agent, a node is judged by the API alone.
	delete(c.answers, "manx-node2")
	c.change(blockA, func(b *block.Block) { b.ReleaseHandle("net.gone") })
	h, err := c.store.Handles.Get(t.Context(), "net.gone")
	c.must(err)
	c.must(c.store.Handles.Delete(t.Context(), h))
	path := filepath.Join(t.TempDir(), "report.json")
	out, err = check(ipamCheckOptions{output: reportOutput{file: path}})
	wantError(t, err)
	for _, want := range []string{
		"found 0 problems", "node2 is judged by the Kubernetes API alone: manxctl in pod manx-node2: connection refused",
		"The report is in " + path,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if r, err := ipamreport.ReadReport(path); err != nil || len(r.Problems) != 0 || r.NotAsked["node2"] == "" {
		t.Errorf("report %+v, %v", r, err)
	}
}

// What is wrong once only, was seen while it changed.
func TestIPAMCheckLooksTwice(t *testing.T) {
	c := newIPAMCluster(t)
	access := c.access()
	var ask atomic.Int32 // agents are asked side by side
	inner := access.exec
	access.exec = func(ctx context.Context, pod *corev1.Pod, args ...string) ([]byte, error) {
		if ask.Add(1) == 1 { // after the blocks were read for the first time
			c.change(blockA, func(b *block.Block) { b.ReleaseHandle("net.gone") })
			h, err := c.store.Handles.Get(ctx, "net.gone")
			c.must(err)
			c.must(c.store.Handles.Delete(ctx, h))
		}
		return inner(ctx, pod, args...)
	}
	var out bytes.Buffer
	err := (&ipamCheckOptions{}).run(t.Context(), &out, access)
	if wantError(t, err); ask.Load() != 4 {
		t.Errorf("agents were asked %d times; want each twice", ask.Load())
	}
}

func TestIPAMConfigure(t *testing.T) {
	c := newIPAMCluster(t)
	yes, no := true, false
	for i, step := range []struct {
		o    ipamConfigureOptions
		err  string
		want apiv1.IPAMConfigSpec
	}{
		{o: ipamConfigureOptions{auto: optionalBool{&no}}, err: errNoBlocks.Error(), want: apiv1.DefaultIPAMConfigSpec()},
		{o: ipamConfigureOptions{strict: optionalBool{&yes}}, want: apiv1.IPAMConfigSpec{StrictAffinity: true, AutoAllocateBlocks: true}},
		{
			o:    ipamConfigureOptions{auto: optionalBool{&no}, maxBlocks: 4, setMaxBlocks: true},
			want: apiv1.IPAMConfigSpec{StrictAffinity: true, MaxBlocksPerHost: 4},
		},
		{o: ipamConfigureOptions{strict: optionalBool{&no}}, err: errNoBlocks.Error(),
			want: apiv1.IPAMConfigSpec{StrictAffinity: true, MaxBlocksPerHost: 4}},
		{o: ipamConfigureOptions{auto: optionalBool{&yes}, strict: optionalBool{&no}, setMaxBlocks: true}, want: apiv1.DefaultIPAMConfigSpec()},
	} {
		var out bytes.Buffer
		err := step.o.run(t.Context(), &out, c.access())
		if step.err != "" {
			wantError(t, err, step.err)
		} else if wantError(t, err); i == 2 {
			golden(t, "ipam-configure", out.String())
		}
		if got, err := c.store.Config(t.Context()); err != nil || got != step.want {
			t.Errorf("step %d: %+v, %v; want %+v", i, got, err, step.want)
		}
	}
}

// The fields of other versions stay.
func TestIPAMConfigureKeepsTheRest(t *testing.T) {
	c := newIPAMCluster(t)
	c.put(apiv1.PluralIPAMConfigs, "IPAMConfig", "default",
		map[string]any{"strictAffinity": false, "autoAllocateBlocks": true, "ipCooldownSeconds": 30, "news": "x"})
	yes := true
	if err := (&ipamConfigureOptions{strict: optionalBool{&yes}}).run(t.Context(), &bytes.Buffer{}, c.access()); err != nil {
		t.Fatal(err)
	}
	text, err := c.backend.Get(t.Context(), apiv1.PluralIPAMConfigs, "default")
	if err != nil || !strings.Contains(string(text), `"ipCooldownSeconds":30,"news":"x","strictAffinity":true`) {
		t.Errorf("%v: %s", err, text)
	}
}

// The command and the API server refuse it with the same words.
func TestIPAMConfigureMessage(t *testing.T) {
	crd, err := os.ReadFile(filepath.Join("..", "..", "manifests", "crds", "crd.projectcalico.org_ipamconfigs.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(strings.ReplaceAll(string(crd), "''", "'")), " ")
	if !strings.Contains(text, errNoBlocks.Error()) {
		t.Errorf("the schema does not say %q", errNoBlocks)
	}
}

func TestIPAMFlags(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "")
	for want, args := range map[string][]string{
		"ipam show: this command needs a kubeconfig":                      {"ipam", "show"},
		`format "xml": want text, json or yaml; or a file such as`:        {"ipam", "check", "-o", "xml"},
		"--recheck=-1s: want a time":                                      {"ipam", "check", "--recheck", "-1s"},
		"at least one of the flags in the group [ip from-report] is":      {"ipam", "release"},
		"none of the others can be":                                       {"ipam", "release", "--ip", "10.0.0.1", "--from-report", "x.json"},
		"nothing to change: want --strictaffinity":                        {"ipam", "configure"},
		"--max-blocks-per-host=-1: want 0 to 2147483647":                  {"ipam", "configure", "--max-blocks-per-host", "-1"},
		`invalid argument "maybe" for "--strictaffinity" flag: want true`: {"ipam", "configure", "--strictaffinity", "maybe"},
		"ipam configure: this command needs a kubeconfig (--kubeconfig, K": {
			"ipam", "configure", "--strictaffinity", "true", "--auto-allocate-blocks=false",
		},
	} {
		if out, err := run(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %q\n%s", args, err, want, out)
		}
	}
}

// What an API server answers to those who may not, or that has no CRDs.
func TestIPAMRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   []string
	}{
		"forbidden": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(metav1.Status{
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
				Status:   metav1.StatusFailure, Code: 403, Reason: metav1.StatusReasonForbidden,
				Message: `ippools.crd.projectcalico.org is forbidden: User "joe" cannot list`,
			})
		}, []string{"ipam show: list ippools", `User "joe" cannot list`, "use a kubeconfig whose user may do that: manxctl help ipam show"}},
		"no CRDs": {http.NotFound, []string{"list ippools", "does not serve crd.projectcalico.org/v1", "are the CRDs installed?"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(tc.answer)
			defer server.Close()
			path := filepath.Join(t.TempDir(), "kubeconfig")
			err := clientcmd.WriteToFile(clientcmdapi.Config{
				Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: server.URL}},
				Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}}, CurrentContext: "c",
			}, path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = run("ipam", "show", "--kubeconfig", path)
			wantError(t, err, tc.want...)
		})
	}
}

func TestTable(t *testing.T) {
	tb := table{headings: []string{"A", "LONG HEADING"}, right: map[int]bool{1: true}}
	tb.add("wider", "1")
	tb.add("ü", "22")
	var out bytes.Buffer
	if err := tb.write(&out); err != nil {
		t.Fatal(err)
	}
	want := `+-------+--------------+
|   A   | LONG HEADING |
+-------+--------------+
| wider |            1 |
| ü     |           22 |
+-------+--------------+
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
