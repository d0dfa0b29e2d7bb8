//go:build cluster

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// An emulated machine has a tenth of a CPU's speed, and the suite spends a third of its
// time on it: whoever wants to make it shorter reads where that goes.

// cpuAccount says in one line what the machine's CPUs did since it was up: how much the
// kernel says of its own work, and the programs that took most, with those of their
// children that have ended. Times are in seconds.
func cpuAccount() string {
	const hz = 100 // USER_HZ of every Linux
	var total string
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		line, _, _ := strings.Cut(string(b), "\n")
		// cpu user nice system idle iowait irq softirq …: proc(5)
		if f := strings.Fields(line); len(f) > 7 {
			total = fmt.Sprintf("user %s, system %s, softirq %s, idle %s;",
				seconds(f[1], hz), seconds(f[3], hz), seconds(f[7], hz), seconds(f[4], hz))
		}
	}
	own, children := map[string]int{}, map[string]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		at := strings.LastIndexByte(string(b), ')')
		name := string(b[strings.IndexByte(string(b), '(')+1 : at])
		// Behind the name: state is field 3, utime, stime, cutime and cstime 14 to 17.
		if f := strings.Fields(string(b[at+1:])); len(f) > 14 {
			own[name] += number(f[11]) + number(f[12])
			children[name] += number(f[13]) + number(f[14])
		}
	}
	names := slices.SortedFunc(maps.Keys(own), func(a, b string) int {
		return cmp.Compare(own[b]+children[b], own[a]+children[a])
	})
	for _, name := range names[:min(12, len(names))] {
		total += fmt.Sprintf(" %s %d+%d", name, own[name]/hz, children[name]/hz)
	}
	return total
}

func seconds(ticks string, hz int) string { return strconv.Itoa(number(ticks) / hz) }

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
