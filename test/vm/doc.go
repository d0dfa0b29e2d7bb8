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
//	 │  bridge ═══ tap ══ virtio-net ═══    uplink0, uplink1, …: one for each of Options.NICs
//	 │◀── frames ── virtio-serial ──────    its output and its end
//	 └◀── tail ──── serial line ────────    what the kernel prints; shown when the guest dies
//
// The guest sees all files of the host, the caches included, as they are at that
// moment; what it writes is gone with it. It has no disk.
//
// # Network
//
// Without [Options.NICs] the guest has loopback alone. Each [NIC] is a virtio card whose
// other end is a port on a bridge in a network namespace of the host, such as a lab's
// fabric. In the guest it is called [Uplink](n), is in the first network namespace, has
// the bridge's MTU, is down and has no address. It can be a port of a bridge in the guest,
// with several machines behind it: the card takes in frames for every address.
//
// The port is a tap device called guest_N. The namespace lives as long as the tap, even if
// its name is removed. Checksums and segmentation are left undone between the two
// kernels, as between the ends of a veth, so a capture at either end shows segments
// longer than the MTU and TCP checksums that are not filled in.
//
// # What is shared, what is left
//
// Nothing has a name: the initramfs is an unnamed file in memory, and the channels
// are socket pairs; QEMU inherits them. So two guests side by side cannot meet and a
// killed run leaves no file. QEMU dies with the process that called [Run]. A tap has a
// name, the first that is free, and goes away with the last of the two.
// The kernel alone is kept, in $XDG_CACHE_HOME/manx/vm; see [Kernel].
//
// # Time
//
// KVM is used where it really boots the kernel, which is tried once after each boot
// of the host. Otherwise QEMU translates every instruction: the guest is up in five to
// eight seconds, with a kernel that the host has unpacked, and its programs run ten
// times slower. Counts, states and packets mean something there; durations do not.
package vm
