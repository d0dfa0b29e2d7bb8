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
      -ldflags "-s -w -X github.com/manx-cni/manx/internal/version.version=${VERSION}" ./cmd/...

FROM debian:bookworm-slim
# nft programs the NAT and forwarding table; portmap and loopback are chained by
# the CNI configuration and installed on the node beside manx.
RUN apt-get update \
 && apt-get install -y --no-install-recommends nftables containernetworking-plugins \
 && install -d /opt/cni/bin \
 && cp /usr/lib/cni/portmap /usr/lib/cni/loopback /opt/cni/bin/ \
 && apt-get purge -y containernetworking-plugins && apt-get autoremove -y \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/manx-node /out/manx-controllers /out/manxctl /usr/local/bin/
COPY --from=build /out/manx /opt/cni/bin/manx
RUN ln /opt/cni/bin/manx /opt/cni/bin/manx-ipam
ENTRYPOINT ["/usr/local/bin/manx-node"]
CMD ["run"]
