#!/usr/bin/env bash
# Fails when formatting, vet, lint or a generated file is off, and says which.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(gofmt -l $(git ls-files -co --exclude-standard '*.go'))
if [ -n "$unformatted" ]; then
	printf 'not gofmt-ed:\n%s\n' "$unformatted" >&2
	exit 1
fi
go vet ./...
go vet -tags cluster ./test/... ./ipam/... ./api/... ./internal/startup ./internal/controllers ./internal/settingsreport
go vet -tags 'cluster ipip vm' ./test/e2e ./test/vm ./felix/tunnel ./felix/rpfilter
# The linter's cache holds the paths of the checkout that filled it: each has one of its own.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/manx/lint/$(pwd | sha256sum | cut -c1-16)
GOLANGCI_LINT_CACHE=$cache go tool -modfile=hack/tools/lint/go.mod golangci-lint run
bash -n hack/*.sh .ci/run

fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
hack/manifests.sh >"$fresh"
if ! diff -u manifests/manx.yaml "$fresh" >&2; then
	echo 'manifests/manx.yaml is stale: run make manifests' >&2
	exit 1
fi
hack/tools/verify.sh
echo 'verify: formatting, vet, lint and generated files are as they should be'
