package cmdline

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// usage prints what cobra prints, but for two things: a command that only has others
// below it has no line of its own, and the flags that all commands share are told once,
// with the program.
func usage(c *cobra.Command) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s [command]\n\nAvailable Commands:\n", c.CommandPath())
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				fmt.Fprintf(&b, "  %-*s %s\n", sub.NamePadding(), sub.Name(), sub.Short)
			}
		}
	} else {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	if c.HasAvailableLocalFlags() {
		fmt.Fprintf(&b, "\nFlags:\n%s\n", strings.TrimRight(c.LocalFlags().FlagUsages(), " \n"))
	}
	if c.HasAvailableInheritedFlags() {
		fmt.Fprintf(&b, "\n%q lists the flags that commands share.\n", c.Root().Name()+" --help")
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nUse %q for more information about a command.\n", c.CommandPath()+" [command] --help")
	}
	_, err := io.WriteString(c.OutOrStderr(), b.String())
	return err
}
