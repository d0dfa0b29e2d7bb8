package cmdline

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/manx-cni/manx/internal/nearest"
)

// done marks a root that is strict.
const done = "cmdline: strict"

// Strict makes every command of the tree refuse what it does not know, "help" and
// "completion" included. It is called once the tree is complete; again, it does nothing.
func Strict(root *cobra.Command) {
	if root.Annotations[done] != "" {
		return
	}
	if root.Annotations == nil {
		root.Annotations = map[string]string{}
	}
	root.Annotations[done] = "yes"
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(usage)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	Walk(root, func(c *cobra.Command) {
		switch {
		case c.HasSubCommands():
			strictGroup(c)
		case c.Name() == "help" && c.Parent() == root:
			strictHelp(c)
		case !c.DisableFlagParsing: // else every argument is another program's
			c.Args = strictArgs(c.Args)
		}
	})
}

// Walk calls do for the command and all below it.
func Walk(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		Walk(sub, do)
	}
}

// strictGroup makes a command that only has others below it refuse what is none of them.
func strictGroup(c *cobra.Command) {
	if c.Runnable() {
		panic(c.CommandPath() + " has commands and does something itself: which of both an argument is for cannot be told")
	}
	c.Args = func(c *cobra.Command, args []string) error {
		names := namesBelow(c)
		if len(args) > 0 {
			want := "want one of"
			if n := nearest.Name(args[0], names); n != "" {
				want = "did you mean " + n + "? Want one of"
			}
			return Usagef("unknown command %q: %s %s", args[0], want, strings.Join(names, ", "))
		}
		if !c.HasParent() { // whoever gives nothing at all wants to know what there is
			c.SetOut(c.ErrOrStderr())
			_ = c.Help()
		}
		return Usagef("a command is missing: want one of %s", strings.Join(names, ", "))
	}
	c.RunE = func(*cobra.Command, []string) error { return nil } // Args has refused everything
}

func namesBelow(c *cobra.Command) (names []string) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	slices.Sort(names)
	return names
}

// strictHelp makes "help" refuse what there is no help for.
func strictHelp(c *cobra.Command) {
	c.Run = nil
	c.RunE = func(c *cobra.Command, args []string) error {
		about, rest, err := c.Root().Find(args)
		if err != nil {
			return &UsageError{Err: err}
		}
		if len(rest) > 0 {
			return Usagef("no help for %q: %s has no such command%s", rest[0], about.CommandPath(), didYouMean(rest[0], namesBelow(about)))
		}
		about.InitDefaultHelpFlag()
		return about.Help()
	}
}

// strictArgs makes what inner refuses a UsageError, and what cobra checks of flags as
// soon as all are read. A command without a word about arguments takes none, or those
// of ValidArgs.
func strictArgs(inner cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		check := inner
		if check == nil {
			check = onlyValid
		}
		err := check(c, args)
		switch none := cobra.NoArgs(c, args); {
		case err == nil:
			err = errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups())
		case IsUsage(err):
		case none != nil && err.Error() == none.Error():
			err = Usagef("unexpected argument %q: %s takes none", args[0], c.CommandPath())
		default:
			err = Usagef("%w: want %s", err, c.UseLine())
		}
		if err != nil && !IsUsage(err) {
			err = &UsageError{Err: err}
		}
		return err
	}
}

func onlyValid(c *cobra.Command, args []string) error {
	if len(c.ValidArgs) == 0 {
		return cobra.NoArgs(c, args)
	}
	for _, a := range args {
		if _, err := Choice("argument", a, c.ValidArgs...); err != nil {
			return err
		}
	}
	return nil
}

// flagError is for a flag that does not exist or does not read.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return &UsageError{Err: err}
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	return Usagef("%w%s", err, didYouMean("--"+unknown.GetSpecifiedName(), names))
}
