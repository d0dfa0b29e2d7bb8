// Package vm runs one command in a virtual machine that has this machine's files
// and Debian's kernel. It is for what the kernel at hand lacks, such as the module
// ipip, and for what must not be tried on it.
//
//	host                                  guest
//	Run ── starts ── qemu                 stage 1: init.sh in an initramfs (busybox)
//	 │                 │                    loads the modules for virtio, 9p and overlayfs
//	 │   9p, read-only │── / ────────────▶  lowest layer of the root
//	 │   9p, read-only │── kernel cache ─▶  layer above it: /boot and /lib/modules
//	 │                 │                    a tmpfs on top takes everything that is written
//	 │                 │                  stage 2: the calling program as PID 1 (guest.go)
//	 │                 │                    mounts /proc, /sys, cgroup2, …; starts the command
//	 │◀── frames ── virtio-serial ──────    its output and its end
//	 └◀── tail ──── serial line ────────    what the kernel prints; shown when the guest dies
//
// The guest sees all files of the host, the caches included, as they are at that
// moment; what it writes is gone with it. It has no network device but loopback, and no disk.
//
// # What is shared, what is left
//
// Nothing has a name: the initramfs is an unnamed file in memory, and the channels
// are socket pairs; QEMU inherits them. So two guests side by side can not meet and a
// killed run leaves no file. QEMU dies with the process that called [Run].
// The kernel alone is kept, in $XDG_CACHE_HOME/manx/vm; see [Kernel].
//
// # Time
//
// KVM is used where it really boots the kernel, which is tried once after each boot
// of the host. Otherwise QEMU translates every instruction: the guest is up in about
// ten seconds and its programs run ten times slower. Counts, states and packets
// mean something there; durations do not.
package vm
