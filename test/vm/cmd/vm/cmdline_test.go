package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/manx-cni/manx/internal/cmdline/cmdlinetest"
)

// Nothing that cannot be meant is taken for a success.
func TestCommandLine(t *testing.T) {
	cmdlinetest.Sweep(t, func() *cobra.Command { return root(new(int)) })
}

// The exit code 2 of "run" is the command's and of nothing else.
func TestUsageCode(t *testing.T) {
	for args, want := range map[string]int{
		"rnu": 2, "kernel x": 2, "": 2, "run": 125, "run --memry 1G true": 125, "run --memory x true": 125, "run --nic : true": 125,
	} {
		r := root(new(int))
		r.SetOut(new(strings.Builder))
		r.SetErr(new(strings.Builder))
		r.SetArgs(strings.Fields(args))
		cmd, err := r.ExecuteContextC(t.Context())
		if err == nil || codeOf(cmd, err) != want {
			t.Errorf("vm %s: %v; want the exit code %d", args, err, want)
		}
	}
}
