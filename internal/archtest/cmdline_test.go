package archtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCommandLinesAreStrict: a program that is built with cobra is made strict by
// internal/cmdline, and its tests give every one of its commands what cannot be meant.
func TestCommandLinesAreStrict(t *testing.T) {
	programs := 0
	for _, p := range list(t) {
		if p.Name != "main" || !slices.Contains(p.Imports, "github.com/spf13/cobra") && !slices.Contains(p.Imports, module+"/internal/ctl") {
			continue
		}
		programs++
		if !slices.Contains(p.Imports, module+"/internal/cmdline") {
			t.Errorf("%s does not import internal/cmdline: its commands take what they do not know for a success", p.rel())
		}
		if !slices.ContainsFunc(p.TestGoFiles, func(name string) bool {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			return err == nil && strings.Contains(string(text), "cmdlinetest.Sweep(")
		}) {
			t.Errorf("%s has no test that calls cmdlinetest.Sweep", p.rel())
		}
	}
	if programs < 5 {
		t.Errorf("%d programs are built with cobra; want manxctl, manx-node, manx-controllers, lab and vm at least", programs)
	}
}

// TestFlagsAreStrict: a program of flags only does not let an argument go.
func TestFlagsAreStrict(t *testing.T) {
	programs := 0
	for _, p := range list(t) {
		if p.Name != "main" || !slices.Contains(p.Imports, "flag") {
			continue
		}
		programs++
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "flag.Parse()") {
				t.Errorf("%s calls flag.Parse: cmdline.ParseFlags also refuses arguments, which nothing reads", p.rel())
			}
		}
	}
	if programs == 0 {
		t.Error("no program imports flag")
	}
}
