#!/usr/bin/env bash
# Installs the Debian packages that the tests and the labs use, when root on
# Debian; otherwise names what is missing and fails.
set -euo pipefail

declare -A program=( # package → a program of it
	[iproute2]=ip [nftables]=nft [iptables]=iptables [ipset]=ipset [conntrack]=conntrack
	[containerd]=containerd [runc]=runc [containernetworking-plugins]=/usr/lib/cni/bridge
	[tcpdump]=tcpdump [iputils-ping]=ping [iputils-arping]=arping [curl]=curl [procps]=ps
	[util-linux]=nsenter [bird2]=/usr/sbin/bird [kmod]=modprobe
)
missing=()
for package in "${!program[@]}"; do
	PATH=$PATH:/usr/sbin:/sbin command -v "${program[$package]}" >/dev/null || missing+=("$package")
done
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	printf 'missing: %s\ninstall them, or run this as root on Debian\n' "${missing[*]}" >&2
	exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt-get update -qq
# Do not let packages start daemons: the tests run their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f '$policy EXIT
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
