// What the tests apply objects of its kinds by: the CRDs, which are files of this module. Nothing is built, so that nothing
// is imported: `go mod tidy` would leave nothing here.
module nfproxy/integration/tools/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.94.0
