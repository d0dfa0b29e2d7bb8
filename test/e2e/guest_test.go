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

// runInGuest runs tests of one kind in a guest, and returns their exit code.
func runInGuest(ctx context.Context, k kind, tests []planned) (code int, err error) {
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
	down, err := guarded(name)
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
	return vm.Run(ctx, vm.Options{
		Args: args, Dir: dir, Env: env, Timeout: guestTimeout, Stdout: os.Stdout, Stderr: os.Stderr, Progress: progress,
		NICs: []vm.NIC{{NetNS: outside.NetNSPath(layout.Fabric), Bridge: fabric.Bridge(1)}},
	})
}
