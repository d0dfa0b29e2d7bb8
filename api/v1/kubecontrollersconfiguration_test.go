package v1_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	v1 "github.com/manx-cni/manx/api/v1"
)

// TestKubeControllersConfigurationRoundTrip shows that no setting of Calico's is
// lost in the Go type.
func TestKubeControllersConfigurationRoundTrip(t *testing.T) {
	const text = `{
		"logSeverityScreen": "Info", "healthChecks": "Enabled", "etcdV3CompactionPeriod": "10m0s",
		"prometheusMetricsPort": 9094, "debugProfilePort": 6060,
		"controllers": {
			"node": {
				"reconcilerPeriod": "5m0s", "syncLabels": "Enabled", "leakGracePeriod": "15m0s",
				"hostEndpoint": {"autoCreate": "Disabled", "createDefaultHostEndpoint": "Enabled", "templates": [
					{"generateName": "x", "interfaceCIDRs": ["10.0.0.0/8"], "interfacePattern": "eth.*", "labels": {"a": "b"}, "nodeSelector": "all()"}]}
			},
			"policy": {"reconcilerPeriod": "1m0s"}, "workloadEndpoint": {"reconcilerPeriod": "2m0s"},
			"serviceAccount": {"reconcilerPeriod": "3m0s"}, "namespace": {"reconcilerPeriod": "4m0s"},
			"loadBalancer": {"assignIPs": "AllServices"}, "policyMigration": {"enabled": "Enabled"}
		}
	}`
	var spec v1.KubeControllersConfigurationSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the type loses settings (-given +kept):\n%s", diff)
	}
}
