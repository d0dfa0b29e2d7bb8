package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/renameio/v2"
)

// printTable prints what each step took.
func printTable(w io.Writer, results []result, total time.Duration) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "STEP\tSECONDS\tTESTS\t")
	sum := 0
	for _, r := range results {
		seconds, tests := fmt.Sprintf("%.0f", r.took.Seconds()), "-"
		if r.step.tests {
			tests = fmt.Sprint(r.tests)
		}
		switch {
		case r.took == 0:
			seconds, tests = "not run", "-"
		case r.ended:
			tests = "ended"
		case r.err != nil:
			tests = "FAILED"
		}
		sum += r.tests
		fmt.Fprintf(t, "%s\t%s\t%s\t\n", r.step.name, seconds, tests)
	}
	fmt.Fprintf(t, "all\t%.0f\t%d\t\n", total.Seconds(), sum)
	_ = t.Flush()
}

// keptRuns is how many runs the page's table has.
const keptRuns = 10

// The table is between these lines of the page.
const tableStart, tableEnd = "<!-- suite: rows of the last runs -->", "<!-- suite: end -->"

// recordRun puts a row about a green run at the top of the table of a page: what it took
// in all, and for each step its seconds and how many tests it ran.
func recordRun(page string, results []result, when time.Time, total time.Duration) error {
	text, err := os.ReadFile(page)
	if err != nil {
		return fmt.Errorf("record the run: %w", err)
	}
	commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("record the run: ask for the commit: %w", err)
	}
	now, err := withRow(text, row(strings.TrimSpace(string(commit)), results, when, total))
	if err != nil {
		return fmt.Errorf("record the run in %s: %w", page, err)
	}
	return renameio.WriteFile(page, now, 0o644)
}

func row(commit string, results []result, when time.Time, total time.Duration) string {
	var steps []string
	sum := 0
	for _, r := range results {
		s := fmt.Sprintf("%s %.0f", r.step.name, r.took.Seconds())
		if r.step.tests {
			s += fmt.Sprintf(" (%d)", r.tests)
		}
		sum += r.tests
		steps = append(steps, s)
	}
	return fmt.Sprintf("| %s | %s | %.0f | %d | %s |\n",
		when.UTC().Format(time.DateOnly), commit, total.Seconds(), sum, strings.Join(steps, ", "))
}

// withRow is the page with a row more, and without those that are too many.
func withRow(page []byte, row string) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(tableStart+"\n"))
	table, after, ok2 := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ok2 {
		return nil, fmt.Errorf("it has no table between %q and %q", tableStart, tableEnd)
	}
	var head, rows []string
	for line := range strings.Lines(string(table)) {
		if len(head) < 2 {
			head = append(head, line)
		} else {
			rows = append(rows, line)
		}
	}
	if len(head) < 2 || !strings.HasPrefix(head[1], "|-") {
		return nil, fmt.Errorf("its table has no head")
	}
	rows = append([]string{row}, rows...)
	rows = rows[:min(keptRuns, len(rows))]
	return []byte(string(before) + tableStart + "\n" + strings.Join(head, "") + strings.Join(rows, "") + tableEnd + string(after)), nil
}
