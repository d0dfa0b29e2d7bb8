package audit_test

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/manx-cni/manx/test/lab/audit"
)

// Lines as an API server of version 1.36 writes them; the last is not complete.
//
//nolint:lll // an entry of an audit log is one line
const lines = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a1","stage":"ResponseComplete","requestURI":"/apis/crd.projectcalico.org/v1/ipamblocks/10-244-0-0-26","verb":"update","user":{"username":"system:serviceaccount:kube-system:manx-node","uid":"u","groups":["system:serviceaccounts"],"extra":{"authentication.kubernetes.io/node-name":["node2"]}},"sourceIPs":["172.30.0.12"],"userAgent":"manx-node/dev","objectRef":{"resource":"ipamblocks","name":"10-244-0-0-26","uid":"u","apiGroup":"crd.projectcalico.org","apiVersion":"v1","resourceVersion":"7"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-20T10:00:00.000001Z","stageTimestamp":"2026-11-20T10:00:00.003000Z","annotations":{"authorization.k8s.io/decision":"allow"}}
{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a2","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/default/pods/p/status","verb":"patch","user":{"username":"system:serviceaccount:kube-system:manx-node"},"sourceIPs":["172.30.0.11"],"userAgent":"manx-node/dev","objectRef":{"resource":"pods","namespace":"default","name":"p","apiVersion":"v1","subresource":"status"},"responseStatus":{"metadata":{},"status":"Failure","reason":"NotFound","code":404},"requestReceivedTimestamp":"2026-11-20T10:00:01.000000Z","stageTimestamp":"2026-11-20T10:00:01.002000Z"}
{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a3","stage":"ResponseComplete","requestURI":"/api/v1/pods","verb":"list","user":{"username":"kubernetes-admin"},"sourceIPs":["172.30.0.2"],"userAgent":"kubectl","objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-20T10:00:02.000000Z","stageTimestamp":"2026-11-20T10:00:02.002000Z"}
{"kind":"Event","verb":"del`

func TestRead(t *testing.T) {
	log, err := audit.Read(strings.NewReader(lines))
	if err != nil || len(log) != 3 {
		t.Fatalf("%d requests, %v; want 3", len(log), err)
	}
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, "2026-11-20T10:00:"+s+"Z")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if want := (audit.Request{
		User: audit.ServiceAccount("kube-system", "manx-node"), Agent: "manx-node/dev", From: netip.MustParseAddr("172.30.0.12"),
		Verb: "update", Resource: "ipamblocks", Name: "10-244-0-0-26", Status: 200, Received: at("00.000001"), Answered: at("00.003"),
	}); log[0] != want {
		t.Errorf("first request %+v, want %+v", log[0], want)
	}
	if r := log[1]; r.Resource != "pods/status" || r.Status != 404 || r.String() != "patch pods/status default/p" {
		t.Errorf("second request %+v, as text %[1]s", r)
	}
	for _, c := range []struct {
		name string
		part audit.Log
		want map[string]int
	}{
		{"all", log, map[string]int{"update ipamblocks": 1, "patch pods/status": 1, "list pods": 1}},
		{"of the agents", log.By(audit.ServiceAccount("kube-system", "manx-node")),
			map[string]int{"update ipamblocks": 1, "patch pods/status": 1}},
		{"of one node", log.From(netip.MustParseAddr("172.30.0.12")), map[string]int{"update ipamblocks": 1}},
		{"writes", log.Writes(), map[string]int{"update ipamblocks": 1, "patch pods/status": 1}},
		{"lists", log.Verbs("list"), map[string]int{"list pods": 1}},
		{"pods", log.Of("pods"), map[string]int{"list pods": 1}},
		{"one second", log.Between(at("01"), at("01.5")), map[string]int{"patch pods/status": 1}},
		{"none", log.By("nobody"), map[string]int{}},
	} {
		if got := c.part.Count(); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if _, err := audit.Read(strings.NewReader("no JSON\n")); err == nil || !strings.Contains(err.Error(), "no JSON") {
		t.Errorf("a line that is no event: %v, want an error that shows it", err)
	}
}

func TestPolicy(t *testing.T) {
	var policy struct {
		Kind  string
		Rules []struct{ Level string }
	}
	if err := yaml.UnmarshalStrict([]byte(audit.Policy), &struct {
		APIVersion        string   `json:"apiVersion"`
		OmitStages        []string `json:"omitStages"`
		OmitManagedFields bool     `json:"omitManagedFields"`
		Kind              string   `json:"kind"`
		Rules             any      `json:"rules"`
	}{}); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(audit.Policy), &policy); err != nil || policy.Kind != "Policy" {
		t.Fatalf("%+v, %v", policy, err)
	}
	if n := len(policy.Rules); n == 0 || policy.Rules[n-1].Level != "Metadata" {
		t.Errorf("rules %+v: want the last to log the metadata of everything else", policy.Rules)
	}
}
