package cmdline_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
	"github.com/manx-cni/manx/internal/cmdline/cmdlinetest"
)

func tree() *cobra.Command {
	ran := func(cmd *cobra.Command, args []string) error {
		cmd.Printf("ran %s %s", cmd.Name(), strings.Join(args, " "))
		return nil
	}
	root := &cobra.Command{Use: "tool", Short: "A tool"}
	root.PersistentFlags().String("context", "", "of all")
	try := &cobra.Command{Use: "preflight", Short: "Try", Args: cobra.NoArgs}
	try.AddCommand(&cobra.Command{Use: "ipip", Short: "IPIP", Args: cobra.NoArgs, RunE: ran},
		&cobra.Command{Use: "bgp", Short: "BGP", RunE: ran},
		&cobra.Command{Use: "node", Hidden: true, RunE: ran})
	build := &cobra.Command{Use: "build [PROGRAM…]", Short: "Build", ValidArgs: []string{"kubelet", "kubectl"}, RunE: ran}
	release := &cobra.Command{Use: "release", Short: "Release", RunE: ran}
	release.Flags().String("ip", "", "one")
	release.Flags().String("report", "", "many")
	release.MarkFlagsOneRequired("ip", "report")
	fails := &cobra.Command{Use: "fails", Short: "Fail", RunE: func(*cobra.Command, []string) error { return errors.New("no luck") }}
	late := &cobra.Command{Use: "mode POOL MODE", Short: "Mode", Args: cobra.ExactArgs(2), RunE: func(_ *cobra.Command, args []string) error {
		_, err := cmdline.Choice("mode", args[1], "Always", "CrossSubnet", "Never")
		return err
	}}
	root.AddCommand(try, build, release, fails, late)
	return root
}

func TestSweep(t *testing.T) { cmdlinetest.Sweep(t, tree) }

func TestRun(t *testing.T) {
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"preflight ipp": {2,
			"tool: unknown command \"ipp\": did you mean ipip? Want one of bgp, ipip\nSee \"tool preflight --help\".\n"},
		"preflight nod":                {2, `unknown command "nod": want one of bgp, ipip`},
		"preflight":                    {2, "tool: a command is missing: want one of bgp, ipip\n"},
		"":                             {2, "Usage:\n  tool [command]\n"},
		"prefligth ipip":               {2, `unknown command "prefligth": did you mean preflight?`},
		"--context x prefligth":        {2, `unknown command "prefligth": did you mean preflight?`},
		"preflight ipip extra":         {2, `unexpected argument "extra": tool preflight ipip takes none`},
		"preflight ipip --contxt a":    {2, "unknown flag: --contxt; did you mean --context?\nSee \"tool preflight ipip --help\"."},
		"preflight ipip --context":     {2, "flag needs an argument: --context"},
		"help bogus":                   {2, `no help for "bogus": tool has no such command`},
		"help preflight ipp":           {2, `no help for "ipp": tool preflight has no such command; did you mean ipip?`},
		"completion":                   {2, "a command is missing: want one of bash"},
		"completion bsh":               {2, "did you mean bash?"},
		"build kublet":                 {2, `argument "kublet": want kubelet or kubectl; did you mean kubelet?`},
		"release":                      {2, "at least one of the flags in the group [ip report] is required"},
		"mode pool":                    {2, "accepts 2 arg(s), received 1: want tool mode POOL MODE"},
		"mode pool Alwys":              {2, `mode "Alwys": want Always, CrossSubnet or Never; did you mean Always?`},
		"fails":                        {1, "tool: no luck\n"},
		"mode pool never":              {0, ""},
		"preflight ipip":               {0, "ran ipip"},
		"preflight node":               {0, "ran node"},
		"build kubelet":                {0, "ran build kubelet"},
		"release --ip x":               {0, "ran release"},
		"help preflight":               {0, "Available Commands:\n  bgp"},
		"preflight --help":             {0, "Available Commands:\n  bgp"},
		"preflight ipip --help":        {0, "\"tool --help\" lists the flags that commands share."},
		"completion bash":              {0, "bash completion"},
		"__complete preflight i":       {0, "ipip\tIPIP\n:4\n"},
		"__complete help preflight i":  {0, "ipip\tIPIP\n:4\n"},
		"__complete release --rep":     {0, "--report\tmany"},
		"__complete completion ba":     {0, "bash\t"},
		"__complete preflight ipip --": {0, "--context\tof all"},
	} {
		root := tree()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		split := strings.Fields(args)
		if strings.HasPrefix(args, "__complete") && strings.HasSuffix(args, " ") {
			split = append(split, "")
		}
		root.SetArgs(split)
		if code := cmdline.Run(t.Context(), root); code != want.code || !strings.Contains(out.String(), want.says) {
			t.Errorf("tool %s: exit code %d and\n%s\nwant %d and %q", args, code, out.String(), want.code, want.says)
		}
	}
}
