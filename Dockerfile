# The image contains the binary and its licences, so that its build pulls nothing. `make image` builds these files first.
FROM scratch
ARG TARGETARCH
ARG VERSION=unknown
LABEL org.opencontainers.image.title="nfproxy" \
      org.opencontainers.image.description="A Kubernetes service proxy on nftables, without iptables, ipset or nft" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY dist/nfproxy-${TARGETARCH} /nfproxy
COPY LICENSE /LICENSE
COPY dist/nfproxy-${TARGETARCH}.licences /THIRD_PARTY_LICENSES
# Root, because Kubernetes can give CAP_NET_ADMIN to no other user (docs/design/0008). No other capability is needed.
USER 0:0
ENTRYPOINT ["/nfproxy"]
CMD ["run"]
