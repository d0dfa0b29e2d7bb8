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

# aside starts a step that runs beside the next ones, and join waits for it and shows
# what it printed. A job of its own (set -m) so that all of it ends when this script does.
aside() {
	aside_name=$1 aside_start=$SECONDS aside_log=$(mktemp)
	shift
	set -m
	"$@" >"$aside_log" 2>&1 &
	set +m
	aside_pid=$!
	# Left in between, because another step has failed: it ends, and what it said is shown.
	trap 'kill -TERM -- "-$aside_pid" 2>/dev/null; wait; cat "$aside_log"; rm -f "$aside_log"' EXIT
}

join() {
	local code=0
	wait "$aside_pid" || code=$?
	trap - EXIT
	printf '\n=== %s\n' "$aside_name"
	cat "$aside_log"
	rm -f "$aside_log"
	[ "$code" = 0 ] || exit "$code"
	printf '=== %s: ok, %d s\n' "$aside_name" $((SECONDS - aside_start))
}

[ "$(id -u)" = 0 ] || { echo 'make test makes network namespaces and clusters: run it as root' >&2; exit 1; }

# Each package once: what has goroutines that share something, with the race detector.
concurrent='/(internal|ipam|felix|bgp)(/|$)'
mapfile -t alone < <(go list ./... | grep -vE "$concurrent")
mapfile -t shared < <(go list ./... | grep -E "$concurrent")

step 'unit and network namespace tests' go test "${alone[@]}"
step 'the same with the race detector, where there is concurrency' go test -race "${shared[@]}"
step 'programs' make --no-print-directory build
step 'Kubernetes binaries (built once, then cached)' bin/lab build
aside 'addresses while everything is killed' go test -tags cluster -count=1 -timeout 15m ./test/chaos
step 'API server conformance' go test -tags cluster -count=1 ./ipam/... ./internal/startup ./internal/controllers ./api/...
step 'labs' go test -tags cluster -count=1 -timeout 15m ./test/lab/...
join
step 'image' make --no-print-directory image
export MANX_IMAGE=$PWD/build/manx.tar
# Both wait more than they work.
aside 'dual stack on real nodes' env MANX_E2E_FAMILIES=dual go test -tags 'cluster dual' -count=1 -timeout 20m -run '^TestDualStack' ./test/e2e
step 'end to end on three real nodes' go test -tags cluster -count=1 -timeout 30m ./test/e2e/...
join
step 'IPIP, in a guest when this kernel has none' hack/test-vm.sh short
