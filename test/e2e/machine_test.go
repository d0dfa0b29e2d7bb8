//go:build cluster

package e2e

import (
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/manx-cni/manx/test/lab/host"
)

// slowness is how much longer than on a real CPU everything may take: QEMU without KVM
// translates every instruction, and then times mean nothing. What tests judge there
// are counts, states and packets.
var slowness = func() int {
	if host.Emulated() {
		return 5
	}
	return 1
}()

// emulated reports whether times mean nothing.
func emulated() bool { return slowness > 1 }

// rateEnv is how many packets per second each flow sends.
const rateEnv = "MANX_E2E_RATE"

var (
	// patience bounds each wait for a condition; it is reached only when the condition fails.
	patience = time.Duration(slowness) * time.Minute
	// pollEvery is how often a condition is looked at. Looking is work, too: on an
	// emulated machine the one who asks all the time keeps others from getting there.
	pollEvery = 100 * time.Millisecond
	// rate of each flow, in packets per second; MANX_E2E_RATE overrides it. An emulated
	// machine carries two such flows, or nearly.
	rate = 1000
	// beat is how often flows send what is due. On an emulated machine waking up for each
	// packet costs more than the packet.
	beat = time.Millisecond
)

func init() {
	if emulated() {
		beat, pollEvery = 10*time.Millisecond, 500*time.Millisecond
		runtime.GOMAXPROCS(1) // a second thread that looks for work is work
	}
	if text := os.Getenv(rateEnv); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			panic(rateEnv + "=" + text + ": want packets per second, such as 1000")
		}
		rate = n
	}
}

// widenBacklog lets an emulated machine that was busy with something else for a second
// keep the packets that have come in meanwhile: that it is slow is not what tests are
// to find. Elsewhere the kernel's limit stands.
func widenBacklog() error {
	if !emulated() {
		return nil
	}
	return os.WriteFile("/proc/sys/net/core/netdev_max_backlog", []byte("100000"), 0)
}
