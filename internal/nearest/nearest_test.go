package nearest_test

import (
	"testing"

	"github.com/manx-cni/manx/internal/nearest"
)

func TestName(t *testing.T) {
	names := []string{"ipam", "ippool", "preflight", "status", "uninstall", "version"}
	for word, want := range map[string]string{
		"stauts": "status", "statsu": "status", "STATUS": "status", "ipan": "ipam", "uninst": "uninstall", "pre": "preflight",
		"Ip_Pool": "ippool", "pre-flihgt": "preflight", "bogus": "", "": "", "x": "", "ip": "ipam", "versions": "version",
	} {
		if got := nearest.Name(word, names); got != want {
			t.Errorf("%q is near %q; want %q", word, got, want)
		}
	}
}
