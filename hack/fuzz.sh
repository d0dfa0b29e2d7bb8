#!/usr/bin/env bash
# Fuzzes every fuzz target of the module for the given time each (default 20s).
set -euo pipefail
cd "$(dirname "$0")/.."
each=${1:-20s}
grep -rl --include='*_test.go' -E '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2 | while read -r target; do
		echo "== $dir $target"
		go test -run '^$' -fuzz "^${target}\$" -fuzztime "$each" "$dir" </dev/null
	done
done
