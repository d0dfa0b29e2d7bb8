// Package cmdline makes the command line of a program strict, the same for every
// program that is built with cobra.
//
// cobra answers much that cannot be meant with a help text and exit code 0: an unknown
// command below the first level, no command at all, an argument that nothing takes,
// "help" for something that is not there. In a script that is a success. [Strict] walks
// the whole tree and makes each of these an error that names what comes nearest, so
// that a new command is strict without a line of its own:
//
//	manxctl preflight ipp
//	manxctl: unknown command "ipp": did you mean ipip? Want one of bgp, ipip
//	See "manxctl preflight --help".
//
// Exit codes are 0, [ExitFailed] when what was asked for failed, and [ExitUsage] when
// the command line asks for nothing that the program can do; nothing was begun then.
// A command that finds out only later that an argument makes no sense returns [Usagef].
package cmdline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/nearest"
)

// Exit codes of a program.
const (
	ExitFailed = 1 // it was tried, and failed
	ExitUsage  = 2 // the command line makes no sense; nothing was tried
)

// UsageError says that the command line makes no sense.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

func (e *UsageError) Unwrap() error { return e.Err }

// Usagef returns a [UsageError].
func Usagef(format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...)}
}

// IsUsage reports whether err says that the command line makes no sense.
func IsUsage(err error) bool { return errors.As(err, new(*UsageError)) }

// Code is the exit code for what a command returned.
func Code(err error) int {
	switch {
	case err == nil:
		return 0
	case IsUsage(err):
		return ExitUsage
	}
	return ExitFailed
}

// Run makes the tree strict, runs the program's command line, prints its error, and
// returns the exit code.
func Run(ctx context.Context, root *cobra.Command) int {
	Strict(root)
	cmd, err := root.ExecuteContextC(ctx)
	Report(root.ErrOrStderr(), cmd, err)
	return Code(err)
}

// Report prints the error of cmd, and where its usage is told when that is what is wrong.
func Report(w io.Writer, cmd *cobra.Command, err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(w, "%s: %v\n", cmd.Root().Name(), err)
	if IsUsage(err) {
		fmt.Fprintf(w, "See %q.\n", cmd.CommandPath()+" --help")
	}
}

// Choice returns which of the choices text is, in any case. what names it in the error:
// an argument or a flag.
func Choice(what, text string, choices ...string) (string, error) {
	for _, c := range choices {
		if strings.EqualFold(c, text) {
			return c, nil
		}
	}
	return "", Usagef("%s %q: want %s%s", what, text, orList(choices), didYouMean(text, choices))
}

// orList is "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func didYouMean(word string, names []string) string {
	if near := nearest.Name(word, names); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}
