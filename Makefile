# Manx. `make` prints this help.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= docker.io/manx/node:dev
LAB     ?= demo
MODE    ?= bgp
LDFLAGS := -s -w -X github.com/manx-cni/manx/internal/version.version=$(VERSION)
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

# KUBERNETES=DIR has ready-made programs of Kubernetes for the labs that a target makes.
ifneq ($(KUBERNETES),)
ifeq ($(filter modules,$(KUBERNETES))$(wildcard $(KUBERNETES)/.),)
$(error KUBERNETES=$(KUBERNETES) is no directory; it names one that has kube-apiserver and the other programs)
endif
export MANX_LAB_KUBERNETES := $(if $(filter modules,$(KUBERNETES)),modules,$(abspath $(KUBERNETES)))
endif

.PHONY: help
help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z0-9-]*:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build every binary into bin/
	@CGO_ENABLED=0 go build -C hack/cni-plugins -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/ tool || \
		echo 'portmap and loopback could not be built: images take those of Debian, which speak CNI 1.0.0 and not 1.1.0' >&2
	$(GOBUILD) -o bin/ ./cmd/... ./test/lab/cmd/lab ./test/vm/cmd/vm ./test/demo ./test/bench ./test/bench/cnibench ./test/suite

.PHONY: deps
deps: build ## Install the Debian packages that tests and labs use, or name them
	bin/lab deps

.PHONY: generate
generate: ## Generate deepcopy, CRDs, manifests and the reference pages
	hack/tools/generate.sh
	go test ./api/settings ./internal/config ./internal/agent ./internal/controllers ./internal/ctl ./felix/state -run Page -update
	hack/manifests.sh > manifests/manx.yaml

.PHONY: manifests
manifests: ## Render manifests/manx.yaml from manifests/src and manifests/crds
	hack/manifests.sh > manifests/manx.yaml

.PHONY: verify
verify: ## Fail when formatting, vet, lint or generated files are off
	hack/verify.sh

.PHONY: image
image: build/manx.tar ## Make the image that labs load: build/manx.tar
.PHONY: build/manx.tar
build/manx.tar: deps
	@mkdir -p build
	bin/lab build-image --bin bin --out build/manx.tar

.PHONY: demo
demo: image ## Real nodes, one manifest, pods over BGP routes, on this machine (MODE=bgp, ipip, crosssubnet, tor; KUBERNETES=DIR)
	bin/demo --mode $(MODE) --lab $(LAB) --image build/manx.tar --manifest manifests/manx.yaml

.PHONY: demo-down
demo-down: build ## Remove the demo's cluster without a trace
	bin/lab --name $(LAB) down

.PHONY: unit
unit: ## Unit tests and tests in network namespaces (root)
	go test ./...

.PHONY: quick
quick: deps ## Unit tests and tests in network namespaces, of what has changed (root)
	go run ./test/suite quick

.PHONY: e2e
e2e: deps ## Tests on clusters with this machine's kernel: light ones, dual stack, a full one
	go run ./test/suite only light dual full

.PHONY: test-vm
test-vm: deps ## IPIP on clusters, in a guest with a stock kernel where this one has no ipip
	go run ./test/suite only 'tunnel device' ipip 'cross subnet'

.PHONY: test
test: deps verify ## Everything that CI runs; RECORD=1 adds its table to docs/development.md
	go run ./test/suite $(if $(RECORD),--record docs/development.md)

.PHONY: bench
bench: image ## CNI ADD and DEL against bridge + host-local, in one run
	bin/bench

.PHONY: fuzz
fuzz: ## Fuzz every parser for 20 s
	hack/fuzz.sh 20s
