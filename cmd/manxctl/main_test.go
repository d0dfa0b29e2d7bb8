package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/manx-cni/manx/internal/cmdline/cmdlinetest"
	"github.com/manx-cni/manx/internal/ctl"

	"github.com/spf13/cobra"
)

// asManxctl has the test's binary be manxctl.
const asManxctl = "MANXCTL_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asManxctl) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// manxctl runs as a process of its own, in a place without a cluster.
func manxctl(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = []string{asManxctl + "=1", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// TestExitCodes: a script is told 0 by what was done only.
func TestExitCodes(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"preflight ipp", 2, `manxctl: unknown command "ipp": did you mean ipip? Want one of bgp, ipip`},
		{"preflight", 2, "a command is missing: want one of bgp, ipip"},
		{"ipam bogus", 2, `unknown command "bogus": want one of check, configure, release, show`},
		{"ippool bogus", 2, `unknown command "bogus": want one of mode`},
		{"stauts", 2, `unknown command "stauts": did you mean status?`},
		{"help bogus", 2, `no help for "bogus"`},
		{"status node1", 2, `unexpected argument "node1": manxctl status takes none`},
		{"status --nodes node1", 2, "unknown flag: --nodes; did you mean --node?"},
		{"status -o xml", 2, "want text"},
		{"ippool mode pool Alwys", 2, "did you mean Always?"},
		{"ippool mode pool", 2, "want manxctl ippool mode POOL"},
		{"ipam release", 2, "at least one of the flags"},
		{"ipam configure", 2, "nothing to change"},
		{"ipam show --ip 10.244.0.0/26", 2, "want an address such as 10.244.0.5"},
		{"preflight bgp --kubeconfig " + absent, 1, "absent: no such file"},
		{"uninstall", 1, "needs a kubeconfig"},
		{"version", 0, ""},
		{"help ipam", 0, ""},
		{"completion bash", 0, ""},
	} {
		out, errOut, code := manxctl(t, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(errOut, c.says) || (code == 0) != (out != "") {
			t.Errorf("manxctl %s: exit code %d, prints %q and says %q; want %d and %q", c.args, code, out, errOut, c.code, c.says)
		}
	}
}

// Nothing that cannot be meant is taken for a success.
func TestCommandLine(t *testing.T) {
	cmdlinetest.Sweep(t, func() *cobra.Command { return ctl.NewCommand(os.Stdout, os.Stderr) })
}
