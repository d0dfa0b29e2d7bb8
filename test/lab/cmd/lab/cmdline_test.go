package main

import (
	"testing"

	"github.com/manx-cni/manx/internal/cmdline/cmdlinetest"
)

// Nothing that cannot be meant is taken for a success.
func TestCommandLine(t *testing.T) { cmdlinetest.Sweep(t, root) }
