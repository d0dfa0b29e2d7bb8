#!/usr/bin/env bash
# Run by hack/test-vm.sh on a kernel with ipip. Each step's time is shown.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

step() {
	local name=$1 start=$SECONDS
	shift
	printf '\n=== %s\n' "$name"
	"$@"
	printf '=== %s: ok, %d s\n' "$name" $((SECONDS - start))
}

e2e() { # MODE NODES SUBNETS TESTS
	(cd test/e2e && MANX_E2E_MODE=$1 MANX_E2E_NODES=$2 MANX_E2E_SUBNETS=$3 \
		"$root/build/e2e-ipip.test" -test.v -test.timeout 40m -test.run "$4")
}

step 'the tunnel device' bash -c 'cd felix/tunnel && "$0/build/tunnel.test"' "$root"
if [ "${1:-all}" = short ]; then
	if grep -q 'QEMU TCG' /proc/cpuinfo; then
		export MANX_E2E_RATE=250 # also while modes change: 1,000 take twice the time
	fi
	step 'IPIP on two nodes' e2e ipip 2 1 '^TestIPIP(Device|Routes|HostSource|Wire|FlowControl|Filter|LargePackets|Repair|Switch|Retired)$'
	exit
fi
step 'IPIP on three nodes' e2e ipip 3 1 '^TestIPIP'
step 'IPIP CrossSubnet on four nodes in two subnets' e2e crosssubnet 4 2 '^TestCrossSubnet'
