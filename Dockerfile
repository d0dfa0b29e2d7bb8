# The image of manifests/manx.yaml: agent, controllers, CNI plugin, manxctl and
# the programs they run.
#
#   docker build -t REGISTRY/manx/node:TAG . && docker push REGISTRY/manx/node:TAG
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -o /out/ \
      -ldflags "-s -w -X github.com/manx-cni/manx/internal/version.version=${VERSION}" ./cmd/... \
 && CGO_ENABLED=0 go build -C hack/cni-plugins -trimpath -ldflags "-s -w" -o /out/cni/ tool

FROM debian:bookworm-slim
# nft programs the NAT and forwarding table; portmap and loopback, which speak CNI
# 1.1.0 as Debian's do not, are installed on the node beside manx.
RUN apt-get update \
 && apt-get install -y --no-install-recommends nftables \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/cni/portmap /out/cni/loopback /opt/cni/bin/
COPY --from=build /out/manx-node /out/manx-controllers /out/manxctl /usr/local/bin/
COPY --from=build /out/manx /opt/cni/bin/manx
RUN ln /opt/cni/bin/manx /opt/cni/bin/manx-ipam
ENTRYPOINT ["/usr/local/bin/manx-node"]
CMD ["run"]
