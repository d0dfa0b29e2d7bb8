//go:build cluster

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/manx-cni/manx/test/lab"
	"github.com/manx-cni/manx/test/lab/fabric"
	"github.com/manx-cni/manx/test/lab/guard"
	"github.com/manx-cni/manx/test/lab/layout"
	"github.com/manx-cni/manx/test/vm"
)

// Tests that need ipip run on a kernel that has it: here when it is this one's, else in a
// guest. Of their lab only the nodes are in the guest, and with them this program, which
// sends the packets: etcd, the API server and the controllers run outside, at the full
// speed of the machine (see lab.Options.Join).

// joinedEnv names, in the guest, the directory of the control plane outside.
const joinedEnv = "MANX_E2E_JOINED"

// guestTimeout bounds a guest; it is reached only when something hangs.
const guestTimeout = 30 * time.Minute

// guestTries is how often tests are started, when guests hang. A test that fails
// is never run again.
const guestTries = 3

// runInGuest runs tests of one kind in a guest, and returns their exit code. QEMU without
// KVM hangs now and then: a CPU of the guest spins, and nothing in it goes
// on. That says nothing of the tests, which are then run in another guest.
func runInGuest(ctx context.Context, k kind, tests []planned) (code int, err error) {
	for try := 1; ; try++ {
		code, err = oneGuest(ctx, k, tests)
		if !errors.Is(err, errHung) && !errors.Is(err, vm.ErrDied) || try == guestTries || ctx.Err() != nil {
			return code, err
		}
		fmt.Fprintf(os.Stderr, "THE GUEST HUNG, its tests are run in another one (try %d of %d): %v\n", try+1, guestTries, err)
	}
}

// oneGuest is one try of runInGuest.
func oneGuest(ctx context.Context, k kind, tests []planned) (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return 1, err
	}
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return 1, err
	}
	name := "e2e" + hex.EncodeToString(id)
	down, err := guard.Start(name)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, down()) }()
	progress := func(s string) { fmt.Fprintln(os.Stderr, "lab", name+":", s) }
	o := k.shape
	o.Name, o.Manifest, o.ControlOnly, o.Progress = name, manifest, true, progress
	outside, err := lab.Up(ctx, o)
	if err != nil {
		return 1, err
	}
	// As here: test.v may be what "go test -json" reads, test.timeout less than a guest has.
	args := []string{self, "-test.run", pattern(tests), "-test.v=" + flag.Lookup("test.v").Value.String()}
	if limit := flag.Lookup("test.timeout").Value.String(); limit != "0s" {
		args = append(args, "-test.timeout="+limit)
	}
	env := []string{joinedEnv + "=" + outside.Dir()}
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", rateEnv} { // the Kubernetes binaries are in the user's cache
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	watched, hung := context.WithCancelCause(ctx)
	defer hung(nil)
	go watchGuest(watched, outside, hung)
	code, err = vm.Run(watched, vm.Options{
		Args: args, Dir: dir, Env: env, Timeout: guestTimeout, Stdout: os.Stdout, Stderr: os.Stderr, Progress: progress,
		NICs: []vm.NIC{{NetNS: outside.NetNSPath(layout.Fabric), Bridge: fabric.Bridge(1)}},
	})
	if errors.Is(context.Cause(watched), errHung) {
		err = errors.Join(errHung, err)
	}
	return code, err
}

var errHung = errors.New("the guest answers no packet any more")

// How often a guest is asked for an echo, and how long it may stay silent once it has
// answered: its kernel does that, however busy its programs are.
const echoEvery, echoSilence = 5 * time.Second, 90 * time.Second

// watchGuest ends a guest that hangs. It asks the namespace that a joined lab has for
// clients of the API server, which no test touches.
func watchGuest(ctx context.Context, outside *lab.Cluster, hung context.CancelCauseFunc) {
	last := time.Time{}
	for tick := time.NewTicker(echoEvery); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		_, err := outside.Exec(ctx, layout.Control, "ping", "-n", "-c", "1", "-W", "4", lab.ClientAddr().String())
		switch {
		case err == nil:
			last = time.Now()
		case !last.IsZero() && time.Since(last) > echoSilence:
			hung(errHung)
		}
	}
}
