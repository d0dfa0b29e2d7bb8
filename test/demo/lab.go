package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// lab runs the lab command as a user would.
type lab struct {
	ctx           context.Context
	program, name string
	patience      time.Duration
}

// String is how a user reaches the lab.
func (l *lab) String() string { return l.program + " --name " + l.name }

func (l *lab) command(args ...string) *exec.Cmd {
	return exec.CommandContext(l.ctx, l.program, append([]string{"--name", l.name}, args...)...)
}

// output runs a lab command and returns what it prints.
func (l *lab) output(args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := l.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// through runs a lab command whose progress the user sees.
func (l *lab) through(args ...string) error {
	cmd := l.command(args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

func (l *lab) kubectl(args ...string) (string, error) {
	return l.output(append([]string{"kubectl"}, args...)...)
}

// show prints a command as one would type it, in front of where it is typed, and its output.
// It is run again until ok, as long as patience lasts: routes follow pods within moments.
func (l *lab) show(prompt string, ok func(string) bool, run func() (string, error), typed ...string) string {
	fmt.Printf("\n%s$ %s\n", prompt, quoted(typed))
	out, err := run()
	for deadline := time.Now().Add(l.patience); !ok(out) && time.Now().Before(deadline) && l.ctx.Err() == nil; {
		time.Sleep(200 * time.Millisecond)
		out, err = run()
	}
	fmt.Print(out)
	if err != nil {
		fmt.Println(err)
	}
	return out
}

// quoted is the command as a shell takes it.
func quoted(args []string) string {
	var out []string
	for _, a := range args {
		if strings.ContainsAny(a, `\ $"*?|&;<>()`) {
			a = "'" + a + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

func (l *lab) showKubectl(ok func(string) bool, args ...string) string {
	return l.show("", ok, func() (string, error) { return l.kubectl(args...) }, append([]string{"kubectl"}, args...)...)
}

func (l *lab) showOn(node string, ok func(string) bool, args ...string) string {
	run := func() (string, error) { return l.output(append([]string{"exec", node}, args...)...) }
	return l.show(node+" ", ok, run, args...)
}
