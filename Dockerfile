# The image of Decree: the static binary, the certificates of authorities, and nothing else. The user is no root, and only
# /data is written to, so that the rest can be read-only.
#
#   docker build --tag decree .
#
# compiles it in a Go image. This takes BuildKit, which is docker's usual builder with the buildx plugin, or podman.
# `make image` takes any builder and pulls no image: see docs/deploy/Dockerfile.

FROM --platform=$BUILDPLATFORM golang:1.26 AS compiled
WORKDIR /source
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
ARG TARGETOS
ARG TARGETARCH
RUN mkdir -p /image/data /image/etc/ssl/certs /image/licenses \
	&& cp LICENSE docs/NOTICE /image/licenses/ \
	&& cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
	&& CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$VERSION" -o /image/decree ./cmd/decree

FROM scratch
COPY --from=compiled /image/etc /etc
COPY --from=compiled /image/licenses /licenses
COPY --from=compiled /image/decree /decree
# A new volume gets its owner from here.
COPY --from=compiled --chown=65532:65532 /image/data /data
USER 65532:65532
WORKDIR /data
VOLUME /data
ENV DECREE_STORAGE_DSN=/data/decree.db
EXPOSE 9002
HEALTHCHECK --interval=30s --timeout=6s --start-period=30s CMD ["/decree", "health"]
ENTRYPOINT ["/decree"]
