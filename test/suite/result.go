package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// result is what became of a step.
type result struct {
	step  step
	took  time.Duration
	tests int
	err   error
	ended bool // it was asked to end because another had failed
}

// say prints lines of several lanes without mixing them up.
var sayMu sync.Mutex

func say(format string, args ...any) {
	sayMu.Lock()
	defer sayMu.Unlock()
	fmt.Printf(format, args...)
}

// logDir has what each step of the last run printed, as it goes on.
const logDir = "build/suite"

// endTime is how long a step has to clean up after itself when it is asked to end.
const endTime = time.Minute

// run runs the step.
func (r *result) run(ctx context.Context) {
	start := time.Now()
	say("=== %s\n", r.step.name)
	var out output
	r.err = r.execute(ctx, &out)
	r.took, r.tests = time.Since(start), out.passed
	if r.err == nil && len(out.skipped) > 0 {
		r.err = fmt.Errorf("skipped tests look green: %s", strings.Join(out.skipped, ", "))
	}
	if r.err == nil && r.step.tests && out.passed == 0 {
		r.err = errors.New("it ran no test")
	}
	r.ended = r.err != nil && ctx.Err() != nil
	switch {
	case r.err == nil:
		say("=== %s: ok, %.0f s%s\n", r.step.name, r.took.Seconds(), count(r.tests))
	case r.ended:
		say("=== %s: ended after %.0f s, as another step has failed\n", r.step.name, r.took.Seconds())
	default:
		say("\n%s=== %s: FAILED after %.0f s: %v\n", out.why(), r.step.name, r.took.Seconds(), r.err)
	}
}

func count(tests int) string {
	if tests == 0 {
		return ""
	}
	return fmt.Sprintf(", %d tests", tests)
}

// ownNetNS runs its arguments with a /run/netns that the mount namespace alone has.
const ownNetNS = `mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec "$@"`

func (r *result) execute(ctx context.Context, out *output) error {
	args := r.step.args
	if r.step.private {
		args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", ownNetNS, "sh"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), r.step.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endTime
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	done := make(chan struct{})
	log, err := os.Create(filepath.Join(logDir, strings.ReplaceAll(r.step.name, " ", "-")+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	go func() { defer close(done); out.read(read, r.step.tests, log) }()
	share := newShare(r.step)
	defer share.remove()
	if err := cmd.Start(); err != nil {
		return err
	}
	err = share.enter(cmd.Process.Pid)
	err = errors.Join(cmd.Wait(), err)
	write.Close()
	<-done
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it may have left in its group
	return err
}

// event is what "go test -json" prints (go doc test2json).
type event struct {
	Action, Package, Test, Output string
}

// output is what a step printed, and which tests it ran.
type output struct {
	passed  int
	skipped []string

	other  bytes.Buffer             // what is no test's
	tests  map[string]*bytes.Buffer // of tests that have not passed, by package and name
	failed []string                 // keys of tests
}

// keepOther bounds what is kept of the rest.
const keepOther = 256 << 10

func (o *output) read(from io.Reader, tests bool, log io.Writer) {
	o.tests = map[string]*bytes.Buffer{}
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		text := string(line)
		if tests && json.Unmarshal(line, &e) == nil && e.Action != "" {
			text = e.Output
			o.take(e)
		} else {
			o.keep(text)
		}
		_, _ = io.WriteString(log, text) // for looking at while it runs
		if err != nil {
			return
		}
	}
}

func (o *output) keep(text string) {
	o.other.WriteString(text)
	if over := o.other.Len() - keepOther; over > 0 {
		o.other.Next(over)
	}
}

func (o *output) take(e event) {
	key := e.Package + "." + e.Test
	switch e.Action {
	case "output", "build-output":
		if e.Test == "" {
			o.keep(e.Output)
			return
		}
		b := o.tests[key]
		if b == nil {
			b = &bytes.Buffer{}
			o.tests[key] = b
		}
		b.WriteString(e.Output)
	case "pass", "skip", "fail":
		if e.Test == "" {
			return
		}
		top := !strings.Contains(e.Test, "/")
		switch e.Action {
		case "pass":
			if top {
				o.passed++
			}
			delete(o.tests, key)
		case "skip":
			o.skipped = append(o.skipped, key)
		default:
			o.failed = append(o.failed, key)
		}
	}
}

// why is what one reads of a step that failed: what the failing tests printed, those that
// had no end, and the rest.
func (o *output) why() string {
	var b strings.Builder
	shown := map[string]bool{}
	for _, key := range o.failed {
		shown[key] = true
		if text := o.tests[key]; text != nil {
			fmt.Fprintf(&b, "--- %s\n%s", key, text)
		}
	}
	for key, text := range o.tests {
		if !shown[key] {
			fmt.Fprintf(&b, "--- %s has not ended\n%s", key, text)
		}
	}
	b.Write(o.other.Bytes())
	return b.String()
}
