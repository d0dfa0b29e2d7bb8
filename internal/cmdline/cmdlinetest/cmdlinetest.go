// Package cmdlinetest tests that no command of a program takes what it does not know.
package cmdlinetest

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline"
)

// Sweep gives every command of the tree what cannot be meant, and wants a usage error
// that names it. Nothing is run. root makes the tree as the program does.
func Sweep(t *testing.T, root func() *cobra.Command) {
	t.Helper()
	groups, leaves := 0, 0
	whole := root()
	cmdline.Strict(whole)
	cmdline.Walk(whole, func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		refuses := func(want string, more ...string) {
			t.Helper()
			refuse(t, root, want, append(append([]string{}, path...), more...))
		}
		switch {
		case c.HasSubCommands():
			groups++
			refuses("a command is missing")
			refuses(`unknown command "no-such-command": want one of `, "no-such-command")
			for _, sub := range c.Commands() {
				if sub.IsAvailableCommand() && len(sub.Name()) > 2 {
					refuses("did you mean "+sub.Name()+"?", sub.Name()+"x")
				}
			}
			refuses("unknown flag: --no-such-flag", "--no-such-flag")
		case c.DisableFlagParsing: // another program's arguments
		case c.Name() == "help":
			refuses(`no help for "no-such-command"`, "no-such-command")
		default:
			leaves++
			refuses("unknown flag: --no-such-flag", "--no-such-flag")
			if !strings.Contains(strings.TrimSuffix(c.UseLine(), " [flags]"), " "+c.Name()+" ") && len(c.ValidArgs) == 0 {
				refuses(`unexpected argument "no-such-argument"`, "no-such-argument")
			}
		}
	})
	if groups == 0 || leaves == 0 {
		t.Errorf("%d commands with others below them and %d without: nothing was tried", groups, leaves)
	}
}

func refuse(t *testing.T, root func() *cobra.Command, want string, args []string) {
	t.Helper()
	r := root()
	cmdline.Strict(r)
	cmdline.Walk(r, func(c *cobra.Command) {
		if c.Runnable() && !c.HasSubCommands() && c.Name() != "help" {
			c.Run, c.RunE = nil, func(*cobra.Command, []string) error {
				t.Errorf("%s %q was run", r.Name(), args)
				return nil
			}
		}
	})
	var out, errOut strings.Builder
	r.SetOut(&out)
	r.SetErr(&errOut)
	r.SetArgs(args)
	if code := cmdline.Run(t.Context(), r); code != cmdline.ExitUsage ||
		!strings.Contains(errOut.String(), want) || !strings.Contains(errOut.String(), "See \"") || out.Len() > 0 {
		t.Errorf("%s %q: exit code %d, prints %q and says %q; want %d, nothing and %q",
			r.Name(), args, code, out.String(), errOut.String(), cmdline.ExitUsage, want)
	}
}
