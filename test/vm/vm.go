package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/manx-cni/manx/test/lab/layout"
)

// What a guest has when Options do not say.
const (
	DefaultMemory  = 10 << 10 // MiB
	DefaultCPUs    = 2
	DefaultTimeout = 30 * time.Minute
)

// Path is the guest's PATH unless Options.Env has another.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ErrTimeout is in the error of a run that took longer than Options.Timeout.
var ErrTimeout = errors.New("timeout")

// ErrDied is in the error of a run whose guest ended by itself: its kernel panicked, or
// QEMU failed.
var ErrDied = errors.New("the guest died")

// Options say what to run, and in how large a guest.
type Options struct {
	Args   []string // the command; a name without a slash is looked for in the guest's PATH
	Env    []string // NAME=VALUE, added to PATH, HOME=/root, LANG and layout.RootEnv; nothing comes from the caller
	Dir    string   // working directory; "" is the caller's
	Memory int      // MiB, of which what the guest writes takes its part; 0 is DefaultMemory
	CPUs   int      // 0 is DefaultCPUs
	// NICs are the guest's network cards. Each appears in its first network namespace as
	// Uplink(n), down and without an address. The port on the bridge is called guest_ and a
	// number, and is gone when Run returns or its process dies.
	NICs []NIC
	// Timeout is for the whole run, from power-on. The command is asked to end a little
	// earlier, so that it can say what it was waiting for. 0 is DefaultTimeout.
	Timeout        time.Duration
	Stdout, Stderr io.Writer    // what the command writes, as it writes it; nil discards it
	Progress       func(string) // gets a line per step; may be nil
}

// withDefaults fills in what o leaves open, and reports what cannot be.
func (o Options) withDefaults() (Options, error) {
	if len(o.Args) == 0 {
		return o, errors.New("no command given")
	}
	for _, e := range o.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return o, fmt.Errorf("environment %q: want NAME=VALUE", e)
		}
	}
	if o.Dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			return o, fmt.Errorf("find working directory: %w", err)
		}
		o.Dir = wd
	}
	if !filepath.IsAbs(o.Dir) {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return o, fmt.Errorf("find working directory: %w", err)
		}
		o.Dir = dir
	}
	o.Memory = cmp.Or(o.Memory, DefaultMemory)
	o.CPUs = cmp.Or(o.CPUs, DefaultCPUs)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	if o.Memory < 256 || o.CPUs < 1 || o.Timeout < time.Second {
		return o, fmt.Errorf("guest of %d MiB, %d CPUs, %s: want at least 256 MiB, 1 CPU and 1s", o.Memory, o.CPUs, o.Timeout)
	}
	for _, n := range o.NICs {
		if n.NetNS == "" || n.Bridge == "" {
			return o, fmt.Errorf("network card %q: want the path of a network namespace and the name of a bridge in it", n)
		}
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o, nil
}

// Run boots a guest, runs the command in it as root and switches the guest off.
// It returns the command's exit code, 128 and the number for one that a signal ended.
//
// An error means that there is no exit code: the guest could not be made, died (the
// error has the last lines of its console), or did not end in time (ErrTimeout);
// or ctx ended, and with it the guest.
func Run(ctx context.Context, o Options) (int, error) {
	o, err := o.withDefaults()
	if err != nil {
		return 0, fmt.Errorf("run in a guest: %w", err)
	}
	cables, err := plugIn(o.NICs)
	if err != nil {
		return 0, err
	}
	defer unplug(cables)
	if err := Ready(ctx, o.Progress); err != nil {
		return 0, err
	}
	kernel, err := FindKernel(ctx, o.Progress)
	if err != nil {
		return 0, err
	}
	accel, err := accelerator(ctx, kernel, o.Progress)
	if err != nil {
		return 0, err
	}
	image, err := rootInitramfs(kernel, spec{
		Args:    o.Args,
		Env:     append([]string{"PATH=" + Path, "HOME=/root", "LANG=C.UTF-8", layout.RootEnv + "=" + labDir + "/labs"}, o.Env...),
		Dir:     o.Dir,
		Seconds: (o.Timeout - grace(o.Timeout)).Seconds(),
		Cards:   addresses(cables),
	})
	if err != nil {
		return 0, fmt.Errorf("make the guest's initramfs: %w", err)
	}
	hw := hardware{kernel: kernel.Image(), memory: o.Memory, cpus: o.CPUs, cables: cables}
	if accel.unpack {
		file, err := unpackedImage(ctx, kernel)
		if err == nil {
			hw.kernel = file
		} else {
			o.Progress(fmt.Sprintf("guest: the kernel unpacks itself, which takes several seconds more: %v", err))
		}
	}
	o.Progress(fmt.Sprintf("guest: kernel %s boots (%s)…", kernel.Version, accel.name))
	return boot(ctx, o, kernel, accel, hw, image)
}

// grace is how much earlier than the guest the command is asked to end.
func grace(timeout time.Duration) time.Duration { return min(10*time.Second, timeout/5) }

// boot runs the guest whose initramfs is image to the end of its command.
func boot(parent context.Context, o Options, k Kernel, a accel, hw hardware, image []byte) (int, error) {
	ctx, cancel := context.WithTimeoutCause(parent, o.Timeout, ErrTimeout)
	defer cancel()
	start := time.Now()
	m, err := powerOn(ctx, k, a, hw, image)
	if err != nil {
		return 0, err
	}
	defer m.powerOff()
	up := false
	for {
		kind, payload, err := readFrame(m.frames)
		if err != nil {
			return 0, m.died(ctx, parent, o, up, err)
		}
		switch kind {
		case frameUp:
			up = true
			o.Progress(fmt.Sprintf("guest: up after %.0f s", time.Since(start).Seconds()))
		case frameStdout, frameStderr:
			w := o.Stdout
			if kind == frameStderr {
				w = o.Stderr
			}
			if _, err := w.Write(payload); err != nil {
				return 0, fmt.Errorf("write the output of %s: %w", o.Args[0], err)
			}
		case frameExit:
			return exitCode(payload)
		case frameTimeout:
			return 0, fmt.Errorf("run %s in a guest: it had not ended %s after power-on: %w",
				strings.Join(o.Args, " "), o.Timeout-grace(o.Timeout), ErrTimeout)
		case frameFailure:
			return 0, fmt.Errorf("run %s in a guest: %s", strings.Join(o.Args, " "), payload)
		default:
			return 0, fmt.Errorf("the guest sent a frame of unknown kind %q", kind)
		}
	}
}

// died says why there are no more frames.
func (m *machine) died(ctx, parent context.Context, o Options, up bool, err error) error {
	stage := "while it booted"
	if up {
		stage = "while the command ran"
	}
	select { // If QEMU ended the frames, it tells why in a moment.
	case <-m.done:
	case <-ctx.Done():
	case <-time.After(2 * time.Second):
	}
	m.powerOff() // The console is complete when QEMU has ended.
	command := strings.Join(o.Args, " ")
	switch {
	case parent.Err() != nil:
		return fmt.Errorf("run %s in a guest: %w", command, context.Cause(parent))
	case ctx.Err() != nil:
		return fmt.Errorf("run %s in a guest: it hung %s: no end after %s: %w; the end of its console:\n%s",
			command, stage, o.Timeout, ErrTimeout, m.console)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("run %s in a guest: %w %s (QEMU: %s); the end of its console:\n%s", command, ErrDied, stage, m.ended(), m.console)
	default:
		return fmt.Errorf("run %s in a guest: read from it: %w", command, err)
	}
}

// setEnv returns env with only the last value of each variable.
func setEnv(env []string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		out = slices.DeleteFunc(out, func(o string) bool { return strings.HasPrefix(o, name+"=") })
		out = append(out, e)
	}
	return out
}
