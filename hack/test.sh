#!/usr/bin/env bash
# Everything that CI runs, quick things first: unit tests and tests in network
# namespaces, then real API servers, then real clusters. Each step's time is shown.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
	local name=$1 start=$SECONDS
	shift
	printf '\n=== %s\n' "$name"
	"$@"
	printf '=== %s: ok, %d s\n' "$name" $((SECONDS - start))
}

[ "$(id -u)" = 0 ] || { echo 'make test makes network namespaces and clusters: run it as root' >&2; exit 1; }

step 'unit and network namespace tests' go test ./...
step 'race detector on what is concurrent' go test -race ./internal/... ./ipam/... ./felix/... ./bgp/...
step 'programs' make --no-print-directory build
step 'Kubernetes binaries (built once, then cached)' bin/lab build
step 'API server conformance' go test -tags cluster -count=1 ./ipam/... ./internal/startup ./internal/controllers ./api/...
step 'addresses while everything is killed' go test -tags cluster -count=1 -timeout 15m ./test/chaos
step 'labs' go test -tags cluster -count=1 -timeout 15m ./test/lab/...
step 'image' make --no-print-directory image
step 'end to end on three real nodes' env "MANX_IMAGE=$PWD/build/manx.tar" go test -tags cluster -count=1 -timeout 30m ./test/e2e/...
step 'dual stack on real nodes' env "MANX_IMAGE=$PWD/build/manx.tar" MANX_E2E_FAMILIES=dual go test -tags 'cluster dual' -count=1 -timeout 20m -run '^TestDualStack' ./test/e2e
step 'IPIP, in a guest when this kernel has none' hack/test-vm.sh short
