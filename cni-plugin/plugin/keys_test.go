package plugin

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/manx-cni/manx/api/settings"
)

func keysOf(t *testing.T, text string) map[string]json.RawMessage {
	t.Helper()
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &keys); err != nil {
		t.Fatal(err)
	}
	return keys
}

// A key that is not acted on is said to be, one that is misspelt is named with what it
// was to be, and what does nothing wrong is not mentioned.
func TestUnusedKeys(t *testing.T) {
	for conf, want := range map[string]string{
		`{"type":"manx","log_level":"info","datastore_type":"kubernetes","nodename":"n1","mtu":0,` +
			`"ipam":{"type":"manx-ipam"},"policy":{"type":"k8s"}}`: "",
		`{"name":"n","cniVersion":"1.0.0","runtimeConfig":{"x":1},"args":{"cni":{}},` +
			`"capabilities":{"portMappings":true},"prevResult":{},"cni.dev/attachments":[],"dns":{}}`: "",
		`{"policy_setup_timeout_seconds":0,"readiness_gates":[],"include_default_routes":false,` +
			`"kubernetes":{"kubeconfig":"/x"},"feature_control":{"floating_ips":false}}`: "",
		`{"mode":null,"log_file_path":"","example.com/note":1}`: "",
		`{"policy_setup_timeout_seconds":5}`: "policy_setup_timeout_seconds=5 has no effect: " +
			"this version of Manx has no policy",
		`{"readiness_gates":["http://localhost/x"]}`:    `readiness_gates=["http://localhost/x"] has no effect: nothing but the agent is asked`,
		`{"include_default_routes":true}`:               "include_default_routes=true has no effect: a pod has one default route",
		`{"feature_control":{"floating_ips":true}}`:     "feature_control.floating_ips=true has no effect",
		`{"etcd_endpoints":"http://x"}`:                 "the Kubernetes API is the only datastore",
		`{"mtuu":1400}`:                                 "mtuu: no such key, ignored; did you mean mtu?",
		`{"MTU":1400}`:                                  "MTU: no such key, ignored; did you mean mtu?",
		`{"ipam":{"asign_ipv6":"true"}}`:                "ipam.asign_ipv6: no such key, ignored; did you mean ipam.assign_ipv6?",
		`{"ipam":{"assignIpv6":"true"}}`:                "did you mean ipam.assign_ipv6?",
		`{"ipam":{"ipv4-pools":[]}}`:                    "did you mean ipam.ipv4_pools?",
		`{"ipaam":{"type":"manx-ipam"}}`:                "ipaam: no such key, ignored; did you mean ipam?",
		`{"container_settings":{"allow_forwarding":1}}`: "container_settings.allow_forwarding: no such key, ignored",
		`{"wholly_other":{"mtu":1}}`:                    "wholly_other: no such key, ignored",
	} {
		got := Unused(keysOf(t, conf))
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%s: %q, want %q", conf, got, want)
		}
	}
	all := Unused(keysOf(t, `{"zzz":1,"mtuu":1,"vxlan_vni":7}`))
	if len(all) != 3 || !slices.IsSorted(all) {
		t.Errorf("%q", all)
	}
	if got := UnusedOfList(keysOf(t, `{"cniVersion":"1.0.0","cniVersons":[],"name":"n","plugins":[],"disableGC":true}`)); len(got) != 1 ||
		!strings.Contains(got[0], "did you mean cniVersions?") {
		t.Errorf("of a list: %q", got)
	}
}

// Every key that the parser has a case for is in the table, and what it takes in has no
// reason to be without effect.
func TestKeysAreComplete(t *testing.T) {
	source, err := os.ReadFile("netconf.go")
	if err != nil {
		t.Fatal(err)
	}
	take, ignored, ok := strings.Cut(string(source), "\nfunc ignored(")
	if !ok {
		t.Fatal("netconf.go has no ignored()")
	}
	name := regexp.MustCompile(`"([a-z][a-zA-Z0-9_./-]+)"`)
	check := func(text string, lines *regexp.Regexp, acted bool) (n int) {
		for _, line := range lines.FindAllString(text, -1) {
			for _, m := range name.FindAllStringSubmatch(line, -1) {
				n++
				i := slices.IndexFunc(settings.CNIKeys, func(e settings.Entry) bool { return e.Name == m[1] })
				if i < 0 || m[1] != "type" && (settings.CNIKeys[i].Effect == settings.ActedOn) != acted {
					t.Errorf("%s: in the table %v, acted on %v", m[1], i >= 0, acted)
				}
			}
		}
		return n
	}
	if n := check(take, regexp.MustCompile(`(?m)^\tcase ".*:$`), true); n < 12 {
		t.Errorf("only %d keys found that are taken", n)
	}
	if n := check(ignored, regexp.MustCompile(`(?ms)^\tcase ".*?:$`), false); n < 15 {
		t.Errorf("only %d keys found that are ignored", n)
	}
	for _, k := range listKeys {
		if !slices.ContainsFunc(settings.CNIKeys, func(e settings.Entry) bool { return e.Name == k }) {
			t.Errorf("%s has no entry", k)
		}
	}
}
