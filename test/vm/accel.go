package vm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// accel is a way to run the guest's instructions.
type accel struct {
	name   string
	args   []string // QEMU's
	kernel string   // the kernel's
	unpack bool     // whether the kernel is unpacked beforehand
}

var (
	kvm = accel{name: "kvm", args: []string{"-accel", "kvm", "-cpu", "host"}}
	tcg = accel{
		name: "tcg",
		// What costs the translator more than it gives: AVX, a fifth level of page tables, and SMAP's two
		// instructions around every copy from and to a program. AVX takes with it all that is written with its
		// prefix; QEMU itself would go on to offer AVX2, and wc(1) would die of it. ERMS and FSRM say that a
		// string is copied fastest byte by byte, in one instruction; the translator makes a loop of bytes of it.
		args: []string{
			"-accel", "tcg,thread=multi", "-cpu", "max,avx=off,avx2=off,f16c=off,fma=off,vaes=off,la57=off,smap=off,erms=off,fsrm=off",
		},
		// The counter is the host's and the same on all CPUs, but the kernel cannot know and would take
		// the HPET: eight times slower, because every reading of the clock leaves the guest. Debian's kernel
		// clears each page when it is handed out, and those of programs once more.
		kernel: "tsc=reliable init_on_alloc=0",
		unpack: true,
	}
)

// probeTimeout is ample for a kernel that boots with KVM, which takes about a second.
const probeTimeout = 8 * time.Second

const probeMark = "manx-vm-probe"

// accelerator chooses KVM when a guest with k really boots with it. That /dev/kvm is
// there says little: inside other virtual machines it may not run an ordinary kernel.
// The answer is kept until the host boots again.
func accelerator(ctx context.Context, k Kernel, progress func(string)) (accel, error) {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return tcg, nil //nolint:nilerr // No KVM, or not for this user.
	} else {
		f.Close()
	}
	cache, err := kernelCache()
	if err != nil {
		return accel{}, err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return accel{}, fmt.Errorf("identify the host's boot: %w", err)
	}
	file := filepath.Join(cache, "kvm")
	question := strings.TrimSpace(string(id)) + " " + k.Version
	if b, err := os.ReadFile(file); err == nil {
		switch string(b) {
		case question + " yes\n":
			return kvm, nil
		case question + " no\n":
			return tcg, nil
		}
	}
	progress("guest: trying KVM")
	chosen, answer := tcg, "no"
	booted, err := bootsWith(ctx, kvm, k)
	if err != nil {
		return accel{}, err
	}
	if booted {
		chosen, answer = kvm, "yes"
	}
	if err := renameio.WriteFile(file, []byte(question+" "+answer+"\n"), 0o644); err != nil {
		return accel{}, fmt.Errorf("keep the answer about KVM: %w", err)
	}
	return chosen, nil
}

// bootsWith reports whether a guest reaches its first program.
func bootsWith(parent context.Context, a accel, k Kernel) (bool, error) {
	image, err := probeInitramfs()
	if err != nil {
		return false, fmt.Errorf("make initramfs: %w", err)
	}
	ctx, cancel := context.WithTimeout(parent, probeTimeout)
	defer cancel()
	m, err := powerOn(ctx, k, a, hardware{kernel: k.Image(), memory: 512, cpus: 1}, image)
	if err != nil {
		return false, err
	}
	<-m.done
	m.powerOff()
	if parent.Err() != nil {
		return false, fmt.Errorf("try KVM: %w", context.Cause(parent))
	}
	return strings.Contains(m.console.String(), probeMark), nil
}
