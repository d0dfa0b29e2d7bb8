#!/bin/sh
# Fails, showing the difference, when generated files are not what generate.sh
# makes of api/v1 as it is now.
set -eu
tools=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$tools/../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir -p "$copy/api" "$copy/manifests/crds"
cp "$root/go.mod" "$root/go.sum" "$copy/"
cp -R "$root/api/v1" "$copy/api/"
rm -f "$copy/api/v1/zz_generated.deepcopy.go"
"$tools/generate.sh" "$copy"
for generated in api/v1/zz_generated.deepcopy.go manifests/crds; do
	diff -ru "$root/$generated" "$copy/$generated" || {
		echo "$generated is stale: run hack/tools/generate.sh and commit the result" >&2
		exit 1
	}
done
