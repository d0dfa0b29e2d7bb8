package datastore

import "testing"

// TestCalicoVersion: beside Calico v3.32 and later the LOCAL_PREF is that of its nodes.
func TestCalicoVersion(t *testing.T) {
	const metric1024 = 2147483647 - 1024
	for version, want := range map[string]uint32{
		"": 0, "v3.31.4": 0, "v3.32.0": metric1024, "v3.32": metric1024, "v3.33.0-0.dev-12-gabc": metric1024, "v3.9.6": 0,
		"v4.0.0": metric1024, "v2.99": 0, "3.32.0": 0, "master": 0, "v3": 0, "v3.x": 0,
	} {
		if got := besideCalico(version); got != want {
			t.Errorf("%q: LOCAL_PREF %d, want %d", version, got, want)
		}
	}
}
