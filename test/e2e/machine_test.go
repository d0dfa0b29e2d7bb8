//go:build cluster

package e2e

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

// slowness is how much longer than on a real CPU everything may take: QEMU without KVM
// translates every instruction, and then times mean nothing. What tests judge there
// are counts, states and packets.
var slowness = func() int {
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil && bytes.Contains(b, []byte("QEMU TCG")) {
		return 5
	}
	return 1
}()

// emulated reports whether times mean nothing.
func emulated() bool { return slowness > 1 }

var (
	// patience bounds each wait for a condition; it is reached only when the condition fails.
	patience = time.Duration(slowness) * time.Minute
	// rate of each flow, in packets per second. Two flows of 250 are about what an
	// emulated machine carries beside a cluster: with more, packets queue up behind each
	// other until a queue of the kernel is full, and the test measures the machine.
	// MANX_E2E_RATE overrides it.
	rate = 1000
)

func init() {
	if emulated() {
		rate = 250
	}
	if text := os.Getenv("MANX_E2E_RATE"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			panic("MANX_E2E_RATE=" + text + ": want packets per second, such as 1000")
		}
		rate = n
	}
}
