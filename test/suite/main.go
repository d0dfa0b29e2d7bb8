// Command suite runs everything that CI runs, in lanes side by side, and prints at the
// end what each step took and how many tests it ran.
//
//	suite [--record docs/development.md]      all of it; what "make test" runs
//	suite quick                               unit tests and tests in network namespaces
//	suite only STEP…                          these steps and those that they need
//
// A lane is a sequence of steps, which share the CPUs with the other lanes by weight
// (cgroups), so that a step of one does not starve a step of another that has limits to
// keep. A step that fails ends the run: what runs beside it is asked to end, and what the
// failing tests printed is shown. A skipped test is a failure: it would look green.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("suite", flag.ContinueOnError)
	record := flags.String("record", "", "page whose table gets a row about this run, when it is green")
	if err := flags.Parse(args); err != nil {
		return err
	}
	steps, err := chosen(flags.Args())
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the tests make network namespaces and clusters: run it as root (sudo)")
	}
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return err
	}
	start := time.Now()
	results, err := runLanes(ctx, steps)
	printTable(os.Stdout, results, time.Since(start))
	if err != nil {
		return err
	}
	if *record != "" {
		return recordRun(*record, results, start, time.Since(start))
	}
	return nil
}

// chosen are the steps that the arguments name.
func chosen(args []string) ([]step, error) {
	all, err := everything()
	if err != nil {
		return nil, err
	}
	switch {
	case len(args) == 0:
		return all, nil
	case args[0] == "quick" && len(args) == 1:
		return quick(), nil
	case args[0] == "only" && len(args) > 1:
		return withNeeds(all, args[1:])
	}
	return nil, fmt.Errorf("%q: want nothing, quick, or only STEP… (steps: %s)", args, strings.Join(names(all), ", "))
}

func names(steps []step) (list []string) {
	for _, s := range steps {
		list = append(list, s.name)
	}
	return list
}

// withNeeds are the named steps and what they need, in the order of all.
func withNeeds(all []step, wanted []string) ([]step, error) {
	want := map[string]bool{}
	for i := 0; i < len(wanted); i++ {
		at := slices.IndexFunc(all, func(s step) bool { return s.name == wanted[i] })
		if at < 0 {
			return nil, fmt.Errorf("no step is called %q: want some of %s", wanted[i], strings.Join(names(all), ", "))
		}
		if !want[wanted[i]] {
			want[wanted[i]] = true
			wanted = append(wanted, all[at].needs...)
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(s step) bool { return !want[s.name] }), nil
}

// runLanes runs the steps of each lane in turn, and the lanes side by side. Every step
// waits for those that it needs.
func runLanes(ctx context.Context, steps []step) ([]result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lanes := map[string][]int{}
	done := map[string]chan struct{}{}
	for i, s := range steps {
		lanes[s.lane] = append(lanes[s.lane], i)
		done[s.name] = make(chan struct{})
	}
	results := make([]result, len(steps))
	for i, s := range steps {
		results[i].step = s
	}
	var all sync.WaitGroup
	for _, lane := range lanes {
		all.Go(func() {
			for _, i := range lane {
				s := steps[i]
				for _, need := range s.needs {
					if c, ok := done[need]; ok {
						select {
						case <-c:
						case <-ctx.Done():
							return
						}
					}
				}
				if ctx.Err() != nil {
					return
				}
				results[i].run(ctx)
				if results[i].err != nil {
					cancel(fmt.Errorf("%s failed", s.name))
					return
				}
				close(done[s.name])
			}
		})
	}
	all.Wait()
	for _, r := range results {
		if r.err != nil && !r.ended {
			return results, fmt.Errorf("%s: %w", r.step.name, r.err)
		}
	}
	return results, context.Cause(ctx)
}
