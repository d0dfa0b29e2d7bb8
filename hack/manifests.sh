#!/usr/bin/env bash
# Prints manifests/manx.yaml: the sources in order, the CRDs after the header.
set -euo pipefail
cd "$(dirname "$0")/../manifests"
cat src/00-header.yaml
for f in src/1*.yaml crds/*.yaml src/[2-9]*.yaml; do
	printf -- '---\n# Source: manifests/%s\n' "$f"
	sed '1{/^---$/d}' "$f"
done
