// What a release is made with: its own module, so that nfproxy has none of what it needs.
module nfproxy/release/sbom

go 1.26.0

require (
	github.com/CycloneDX/cyclonedx-go v0.12.0
	github.com/package-url/packageurl-go v0.1.7
)
