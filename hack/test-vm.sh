#!/usr/bin/env bash
# What needs a kernel with ipip: the tunnel driver on a real tunl0, and real clusters in
# IPIP modes. When the kernel at hand has no ipip it all runs in a guest that has it.
# With the argument "short", which make test gives, it is a cluster of two nodes, without
# what takes longest: CrossSubnet on four nodes, preflight, a held change, every path.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p build
go test -tags ipip -c -o build/tunnel.test ./felix/tunnel
go test -tags 'cluster ipip' -c -o build/e2e-ipip.test ./test/e2e

bin/lab store --image build/manx.tar # here, where it is quick
run=(bin/vm run --timeout 60m --env "MANX_IMAGE=$PWD/build/manx.tar" --)
if bin/vm has-ipip; then
	run=(env "MANX_IMAGE=$PWD/build/manx.tar")
fi
exec "${run[@]}" bash hack/guest-tests.sh "${1:-all}"
