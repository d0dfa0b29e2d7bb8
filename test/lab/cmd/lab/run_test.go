package main

import (
	"slices"
	"testing"
)

func TestSplitName(t *testing.T) {
	for _, c := range []struct {
		args   []string
		chosen string
		rest   []string
	}{
		{[]string{"--name", "demo", "get", "pods"}, "demo", []string{"get", "pods"}},
		{[]string{"--name=demo", "--", "get", "pods"}, "demo", []string{"--", "get", "pods"}},
		{[]string{"get", "pods", "--name", "kubectl's"}, "", []string{"get", "pods", "--name", "kubectl's"}},
		{[]string{"-n", "x", "get", "pods"}, "", []string{"-n", "x", "get", "pods"}},
		{[]string{"--", "--name", "kubectl's"}, "", []string{"--", "--name", "kubectl's"}},
		{nil, "", nil},
	} {
		if chosen, rest := splitName(c.args); chosen != c.chosen || !slices.Equal(rest, c.rest) {
			t.Errorf("splitName(%q) is %q, %q; want %q, %q", c.args, chosen, rest, c.chosen, c.rest)
		}
	}
}
