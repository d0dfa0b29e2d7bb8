#!/bin/busybox sh
# Stage one: PID 1 from the initramfs to the root. Whatever fails ends PID 1, the
# kernel panics, QEMU ends, and the host shows what was printed.
set -e
b=/bin/busybox
for m in /modules/*; do $b insmod "$m"; done
opts=trans=virtio,version=9p2000.L,msize=1048576,cache=loose,ro
$b mkdir -p /host /kernel /layers /root
$b mount -t 9p -o $opts host /host
$b mount -t 9p -o $opts kernel /kernel
$b mount -t tmpfs -o size=80%,mode=755,nr_inodes=0 tmpfs /layers
$b mkdir /layers/upper /layers/work
# Without redirect_dir no directory of the host could be renamed.
$b mount -t overlay -o lowerdir=/kernel:/host,upperdir=/layers/upper,workdir=/layers/work,redirect_dir=on overlay /root
# What is mounted on /run covers it again; until then it holds what stage two needs.
$b mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /root/run
$b cp /manx-vm-init /spec.json /root/run/
exec $b switch_root /root /run/manx-vm-init
