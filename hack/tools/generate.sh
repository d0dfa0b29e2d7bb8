#!/bin/sh
# Generates the deep-copy functions of api/v1 and the CRDs in manifests/crds
# with the controller-gen that hack/tools/go.mod pins, and has the CRDs say which fields
# have no effect.
# usage: generate.sh [ROOT]   ROOT: the repository to generate in (this one)
set -eu
tools=$(cd "$(dirname "$0")" && pwd)
root=${1:-$(cd "$tools/../.." && pwd)}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
(cd "$tools" && go build -o "$bin/controller-gen" sigs.k8s.io/controller-tools/cmd/controller-gen)
cd "$root"
"$bin/controller-gen" object:headerFile=/dev/null paths=./api/v1
"$bin/controller-gen" crd:crdVersions=v1 paths=./api/v1 output:crd:dir=manifests/crds

# controller-gen has no marker for "the items may be null", which the free
# addresses of a block are.
block=manifests/crds/crd.projectcalico.org_ipamblocks.yaml
sed '/^ *allocations:$/,/type: array/ s/^\( *\)type: integer$/\1nullable: true\n&/' "$block" >"$bin/block.yaml"
grep -q 'nullable: true' "$bin/block.yaml"
cat "$bin/block.yaml" >"$block"

# What Manx does not do with a field, from api/settings.
out=$(cd manifests/crds && pwd)
(cd "$tools/../.." && go run ./hack/describe "$out")
