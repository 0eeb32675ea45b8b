# The image: the binary and its licences, so that nothing is pulled to build it. `make image` builds them as well.
FROM scratch
ARG TARGETARCH
ARG VERSION=unknown
LABEL org.opencontainers.image.title="nfproxy" \
      org.opencontainers.image.description="The service proxy for Linux that has nftables and nothing else" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY dist/nfproxy-${TARGETARCH} /nfproxy
COPY LICENSE /LICENSE
COPY dist/nfproxy-${TARGETARCH}.licences /THIRD_PARTY_LICENSES
# Root, with no capability but NET_ADMIN, which Kubernetes gives to nobody else: docs/design/0008.
USER 0:0
ENTRYPOINT ["/nfproxy"]
CMD ["run"]
