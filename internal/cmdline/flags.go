package cmdline

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// ParseFlags reads the command line of a program that has flags of package flag and no
// commands. It ends the program with [ExitUsage] when that makes no sense, also when an
// argument is left, which flag.Parse lets go: "demo ipip" is not "demo -mode ipip".
func ParseFlags() {
	flag.Parse()
	if err := flagsOnly(flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(ExitUsage)
	}
}

func flagsOnly(args []string) error {
	if len(args) == 0 {
		return nil
	}
	return Usagef("unexpected argument %q: there are flags only, which -help lists", args[0])
}
