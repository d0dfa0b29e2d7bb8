package plugin

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Every pod start pays for what the plugin links: a heavy import must be noticed.
func TestWeight(t *testing.T) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	const limit = 4_000_000
	if info.Size() > limit {
		t.Errorf("the binary has %d bytes, want at most %d", info.Size(), limit)
	}
	t.Logf("the binary has %d bytes", info.Size())
	out, err := exec.Command("go", "list", "-deps", "github.com/manx-cni/manx/cmd/manx").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, heavy := range []string{
		"net/http", "crypto/sha1", "crypto/tls", "text/template", "github.com/spf13/cobra", "github.com/vishvananda/netlink", "k8s.io/klog/v2",
	} {
		if slices.Contains(deps, heavy) {
			t.Errorf("the plugin imports %s", heavy)
		}
	}
	for _, d := range deps {
		if strings.HasPrefix(d, "k8s.io/") {
			t.Errorf("the plugin imports %s", d)
		}
	}
}
