# nfproxy. `make` prints the targets.

GO       ?= go
# A commit without a tag is named by twelve digits, the same number in every clone.
VERSION  ?= $(shell git describe --tags --always --abbrev=12 --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# The same sources make the same bytes, in any directory.
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
IMAGE    ?= nfproxy:$(VERSION)
ARCH     ?= $(shell $(GO) env GOARCH)
BUILDER  ?= $(firstword $(foreach b,buildah podman docker,$(if $(shell command -v $b),$b)))
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.1
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.6.0
PACKAGES := ./...

# Tests that need the kernel make their own network namespaces and never touch the machine's.
TESTFLAGS ?=

# Debian's releases whose kernels are tested; newest is the newest of all.
KERNELS ?= bullseye bookworm trixie newest
# The tests that make test-kernels runs; empty: all in integration/kernels/tests.go.
RUN ?=

.DEFAULT_GOAL := help
.PHONY: help build image image-check release release-check demo test conformance conformance-part conformance-up conformance-down conformance-tools test-differential test-kernels test-faults pictures nft-versions check lint unit race bench bench-compare bench-commits bench-datapath soak least-loaded fuzz vulncheck tools controlplane helm clean

help: ## print this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the binary, ./nfproxy
	$(BUILD) -o nfproxy .

image: dist/nfproxy-$(ARCH) dist/nfproxy-$(ARCH).licences ## build the image nfproxy:VERSION for ARCH with buildah, podman or docker, without pulling anything
	$(BUILDER) $(if $(filter docker,$(BUILDER)),build,build --isolation chroot --timestamp 0) --platform linux/$(ARCH) \
		--build-arg TARGETARCH=$(ARCH) --build-arg VERSION=$(VERSION) -t $(IMAGE) .

dist/nfproxy-%: FORCE
	GOOS=linux GOARCH=$* $(BUILD) -o $@ .

dist/nfproxy-%.licences: dist/nfproxy-%
	GO='$(GO)' $(GO) run ./release/licences $< >$@

FORCE:

image-check: dist/nfproxy-amd64 dist/nfproxy-arm64 ## build and check the image, and check the systemd unit
	.ci/image-check
	.ci/unit-check

# DOWNLOADS is where the files of releases are published, for krew's manifest.
DOWNLOADS ?=
release: ## make the release files in dist/release, from a clean clone (docs/releasing.md)
	@GO='$(GO)' DOWNLOADS='$(DOWNLOADS)' release/build '$(VERSION)'

release-check: .bin/helm ## make the release twice, compare both and check the contents
	.ci/release-check

demo: build ## run the demo: four Services and real packets in network namespaces, no cluster needed, nothing left behind
	./nfproxy demo

check: lint unit ## run the fast checks: vet, staticcheck, the tests that need neither tables in the kernel nor a control plane

lint: ## run gofmt, vet and staticcheck
	@files=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$files" || { echo "not gofmt-clean: $$files"; exit 1; }
	$(GO) vet $(PACKAGES)
	$(GO) run $(STATICCHECK) $(PACKAGES)
	cd release/sbom && $(GO) vet . && $(GO) run $(STATICCHECK) .
	cd integration/report && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...

unit:
	$(GO) test -short ./nft/... ./nlmsg ./conntrack/... ./render ./report ./config ./watcher ./agent/metrics ./trace ./cli

test: tools controlplane helm nft-versions lint vulncheck build image-check release-check race fuzz conformance-part ## run everything, as CI does
	$(MAKE) test-kernels KERNELS='bookworm trixie'

# Every run draws other clusters unless SEED is given.
SEED     ?= $(shell date +%s%N)
CLUSTERS ?= 100
test-differential: tools controlplane ## compare nfproxy with the real kube-proxy on CLUSTERS random clusters, drawn from SEED
	$(GO) test -timeout 0 -run '^TestDifferential$$' -v ./integration/differential -args -differential.seed=$(SEED) -differential.clusters=$(CLUSTERS)

test-faults: tools ## let every call on a netlink socket fail with every error, which takes about three quarters of an hour
	$(GO) test -timeout 0 -run '^TestFaults' -v ./integration/faults -args -faults.all

pictures: tools ## draw the pictures of docs/pictures/explain-*.svg: the graphs that the scenarios in integration/cli/testdata want
	$(GO) test -run '^TestExplainPictures$$' ./integration/cli -args -update

# The virtual machines emulate the processor.
test-kernels: tools nft-versions $(KERNELS:%=.bin/linux-%) .bin/busybox .bin/ipvs-bookworm $(filter .bin/ipvs-newest,$(KERNELS:%=.bin/ipvs-%)) .bin/kube-proxy ## run tests on Debian's kernels KERNELS, in virtual machines
	$(GO) run ./integration/kernels -run '$(RUN)' $(KERNELS)

DEBIAN_PACKAGES = integration/kernels/debian $@
NEWEST = trixie trixie-backports sid experimental

.bin/linux-newest: integration/kernels/debian
	$(DEBIAN_PACKAGES) '$(NEWEST)' linux- linux-image-amd64

.bin/linux-%: integration/kernels/debian
	$(DEBIAN_PACKAGES) $* linux- linux-image-amd64

nft-versions: .bin/nft-bookworm .bin/nft-trixie .bin/nft-newest ## download the versions of nft that Debian has into .bin

.bin/nft-newest: integration/kernels/debian
	$(DEBIAN_PACKAGES) '$(NEWEST)' 'nftables|lib' nftables

.bin/nft-%: integration/kernels/debian
	$(DEBIAN_PACKAGES) $* 'nftables|lib' nftables

.bin/ipvs-bookworm: integration/kernels/debian
	$(DEBIAN_PACKAGES) bookworm 'iptables|ipset|ipvsadm|netbase|lib' iptables ipset ipvsadm netbase

.bin/ipvs-newest: integration/kernels/debian
	$(DEBIAN_PACKAGES) '$(NEWEST)' 'iptables|ipset|ipvsadm|netbase|lib' iptables ipset ipvsadm netbase

.bin/busybox: integration/kernels/debian
	$(DEBIAN_PACKAGES) bookworm busybox-static busybox-static

# The page and the results of the last complete run are in docs. FOCUS and SKIP are regular expressions over the names of tests; with one
# of them nothing is written there. PROCS tests run at the same time.
FOCUS ?=
SKIP  ?=
PROCS ?= 4
CONFORMANCE = $(GO) test -count 1 -v -timeout $(2) -run '^($(1))$$' ./integration/conformance -args -conformance.run -conformance.procs='$(PROCS)'

conformance: conformance-tools dist/conformance/nfproxy.tar ## run Kubernetes' own network tests against nfproxy on clusters in namespaces, and write docs/conformance.md; about half an hour, or less with FOCUS and SKIP
	$(call CONFORMANCE,TestConformance,4h) -conformance.focus='$(FOCUS)' -conformance.skip='$(SKIP)'

conformance-part: conformance-tools dist/conformance/nfproxy.tar ## run the part of these tests that CI runs, the migration of a cluster from kube-proxy, and the plugin of kubectl; about ten minutes
	$(call CONFORMANCE,TestPart|TestMigration|TestPlugin,40m)

conformance-up: conformance-tools dist/conformance/nfproxy.tar ## start a cluster with nfproxy in the background and print its KUBECONFIG
	@integration/conformance/keep up

conformance-down: ## end the cluster of conformance-up
	@integration/conformance/keep down

dist/conformance/nfproxy.tar: FORCE
	@mkdir -p $(@D)
	$(MAKE) -s image BUILDER=buildah IMAGE=nfproxy:conformance ARCH=amd64
	rm -f $@
	buildah push --quiet localhost/nfproxy:conformance docker-archive:$@:$$(sed -n 's/^ *image: \(nfproxy:[^ ]*\).*/\1/p' deploy/nfproxy.yaml)
	buildah rmi localhost/nfproxy:conformance >/dev/null

conformance-tools: tools controlplane .bin/helm .bin/kubelet .bin/e2e.test .bin/containerd .bin/images

# One invocation builds all programs: they share most packages.
CLUSTER_PROGRAMS = k8s.io/kubernetes/cmd/kubelet \
	k8s.io/kubernetes/test/images/agnhost k8s.io/kubernetes/test/images/regression-issue-74839 github.com/onsi/ginkgo/v2/ginkgo
.bin/kubelet: integration/tools/kubernetes/go.mod
	CGO_ENABLED=0 $(GO) build -C $(<D) -trimpath -ldflags '$(KUBERNETES_LDFLAGS)' -o $(CURDIR)/.bin/ $(CLUSTER_PROGRAMS)

.bin/e2e.test: integration/tools/kubernetes/go.mod integration/tools/kubernetes/e2e/e2e_test.go
	CGO_ENABLED=0 $(GO) test -C $(<D) -c -vet=off -trimpath -ldflags '$(KUBERNETES_LDFLAGS)' -o $(CURDIR)/$@ ./e2e

.bin/pause: integration/conformance/pause/main.go
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $@ ./$(<D)

.bin/containerd: integration/kernels/debian
	$(DEBIAN_PACKAGES) bookworm 'containerd|runc' containerd runc containernetworking-plugins

.bin/userland: integration/kernels/debian
	$(DEBIAN_PACKAGES) bookworm . bash busybox bind9-dnsutils curl iproute2 libc-bin netbase netcat-openbsd nftables wget

.bin/images: integration/conformance/images .bin/userland .bin/e2e.test .bin/kubelet .bin/pause .bin/coredns .bin/kube-proxy
	integration/conformance/images $@ .bin

race: # atexit_sleep_ms=0: otherwise each of the hundreds of processes sleeps for a second before it exits
	CI=1 GORACE=atexit_sleep_ms=0 $(GO) test -race -timeout 20m $(TESTFLAGS) $(PACKAGES)
	cd integration/report && $(GO) test ./...

bench: tools controlplane ## measure time and memory at 1,000, 10,000 and 100,000 Services, and on an API server
	$(GO) test -run '^$$' -bench . -benchmem -timeout 60m ./nft/... ./render ./integration/...

# The page and the plots of the last runs are in docs/benchmarks. At ALONE only nfproxy is measured, at SIZES (Services, or Services x
# endpoints) all PROXIES. What takes longer than BOUND is given up. Parts can be measured one by one, each with a RECORD of its
# own. NOTE is a sentence about the run.
SIZES   ?= 1x5000 100x250 1000 5000 10000 30000
ALONE   ?= 50000 100000
PROXIES ?= nfproxy nftables iptables
ROUNDS  ?= 3
BOUND   ?= 3m
RECORD  ?= control-plane.json
bench-compare: tools controlplane ## measure nfproxy and kube-proxy's PROXIES on an API server at SIZES, in ROUNDS, and write docs/benchmarks; more than an hour
	@mkdir -p docs/benchmarks
	$(GO) test -count 1 -timeout 0 -run '^TestCompare$$' -v ./integration/compare -args -compare.sizes='$(SIZES)' -compare.alone='$(ALONE)' \
		-compare.proxies='$(PROXIES)' -compare.rounds='$(ROUNDS)' -compare.bound='$(BOUND)' -compare.samples=100 \
		-compare.note='$(NOTE)' -compare.out='$(CURDIR)/docs/benchmarks/$(RECORD)' >&2; status=$$?; \
	$(GO) run -C integration/report ./compare '$(CURDIR)/docs/benchmarks' '$(CURDIR)/README.md' && exit $$status

# Loads and commits without an API server: one benchmark is repeated for each change, the other for each load.
bench-commits: tools controlplane ## measure loads, restarts and commits at 1,000, 10,000 and 100,000 Services, and write docs/benchmarks/commits.json; about ten minutes
	@mkdir -p docs/benchmarks
	$(GO) run -C integration/report ./benchmarks '$(CURDIR)' '$(CURDIR)/docs/benchmarks/commits.json' 'make bench-commits' sh -c ' \
		$(GO) test -run "^$$" -bench "^Benchmark(ReplaceEndpoint|AddRemoveEndpoint|ChangeVerdict)$$" -benchtime 500x -count 5 -timeout 0 ./integration/kernel && \
		$(GO) test -run "^$$" -bench "^Benchmark(Load|Restart|NewBalancingChain)$$" -benchtime 1x -count 5 -timeout 0 ./integration/kernel'
	$(GO) run -C integration/report ./compare '$(CURDIR)/docs/benchmarks' '$(CURDIR)/README.md'

# The proxies program SIZES Services, and other properties are varied at DETAIL of them. kube-proxy's iptables mode uses the legacy backend:
# with the other one it needs many minutes for 10,000 Services. FIRST_PACKET is how the benchmarks of first packets are repeated.
DATAPATH_SIZES  ?= 1 1000 10000 30000
DATAPATH_DETAIL ?= 10000
DATAPATH_ROUNDS ?= 10
IPTABLES        ?= legacy
FIRST_PACKET    ?= -benchtime 100x -count 5
bench-datapath: tools controlplane ## measure connections through nfproxy, kube-proxy and no proxy at DATAPATH_SIZES, in DATAPATH_ROUNDS, and write docs/benchmarks/data-path.json; about half an hour
	@mkdir -p dist docs/benchmarks
	$(GO) test -run '^$$' -bench '^Benchmark(FirstPacket|Draws)$$' $(FIRST_PACKET) -timeout 0 ./integration/kernel >dist/first-packet.txt || { cat dist/first-packet.txt; exit 1; }
	$(GO) test -count 1 -timeout 0 -run '^TestDataPath$$' -v ./integration/datapath -args -datapath.sizes='$(DATAPATH_SIZES)' -datapath.detail='$(DATAPATH_DETAIL)' \
		-datapath.many=1000 -datapath.rounds='$(DATAPATH_ROUNDS)' -datapath.connections=5000 -datapath.stream=3s -datapath.patience=10m \
		-datapath.iptables='$(IPTABLES)' -datapath.firstpacket='$(CURDIR)/dist/first-packet.txt' -datapath.command="make bench-datapath DATAPATH_SIZES='$(DATAPATH_SIZES)' DATAPATH_ROUNDS=$(DATAPATH_ROUNDS) FIRST_PACKET='$(FIRST_PACKET)'" \
		-datapath.out='$(CURDIR)/docs/benchmarks/data-path.json'
	$(GO) run -C integration/report ./compare '$(CURDIR)/docs/benchmarks' '$(CURDIR)/README.md'

# The page and the plots of the last run are in docs/soak. NOTE is a sentence about the machine.
DURATION ?= 1h
SERVICES ?= 20000
FLOWS    ?= 200000
RATE     ?= 200
soak: build ## run nfproxy for DURATION with SERVICES Services, RATE changes a second and FLOWS conntrack entries, and write docs/soak
	@mkdir -p dist/soak
	$(GO) run ./integration/soak -nfproxy ./nfproxy -duration '$(DURATION)' -services '$(SERVICES)' -flows '$(FLOWS)' -rate '$(RATE)' \
		-seed '$(SEED)' -out dist/soak; status=$$?; \
	$(GO) run -C integration/report ./soak '$(CURDIR)/dist/soak' '$(CURDIR)/docs/soak' '$(NOTE)' && exit $$status

least-loaded: ## repeat the simulations of docs/design/0017-least-loaded.md and write its results; about a minute and a half on one core
	$(GO) run -C integration/report ./leastloaded '$(CURDIR)/docs/design'

FUZZTIME ?= 1m
FUZZ_TARGETS = grep -r '^func Fuzz' --include='*_test.go' * | sed -E 's|^(.*)/[^/]*:func (Fuzz[A-Za-z]*)\(.*|./\1 \2|' | sort
fuzz: ## fuzz each target for FUZZTIME, by default a minute, two targets at a time
	@$(FUZZ_TARGETS) | GO='$(GO)' FUZZTIME='$(FUZZTIME)' xargs -L 1 -P 2 .ci/fuzz

# The database of vulnerabilities. A copy is given as file:///DIR; with none, nothing is checked, and the output says so.
VULNDB ?= https://vuln.go.dev
vulncheck: ## check the program and its tests with govulncheck against the database VULNDB
	@if test '$(VULNDB)' = none; then echo 'govulncheck is switched off (VULNDB=none)'; \
	else GOFLAGS=-buildvcs=false $(GO) run $(GOVULNCHECK) -test -db '$(VULNDB)' $(PACKAGES); fi

tools: ## install what the tests need besides Go: nft, iptables for kube-proxy, iperf3, ab, a C compiler for the race detector, promtool, buildah, systemd-analyze, jq, Graphviz, qemu
	@missing=; command -v nft >/dev/null || missing="$$missing nftables"; \
	command -v iptables-save >/dev/null || missing="$$missing iptables"; \
	command -v iperf3 >/dev/null || missing="$$missing iperf3"; \
	command -v ab >/dev/null || missing="$$missing apache2-utils"; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v buildah >/dev/null || missing="$$missing buildah"; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	command -v jq >/dev/null || missing="$$missing jq"; \
	command -v dot >/dev/null || missing="$$missing graphviz"; \
	command -v qemu-system-x86_64 >/dev/null || missing="$$missing qemu-system-x86"; \
	command -v depmod >/dev/null || missing="$$missing kmod"; \
	command -v xz >/dev/null || missing="$$missing xz-utils"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	test -z "$$missing" || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing; }

controlplane: $(addprefix .bin/,etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl coredns) ## build the Kubernetes programs for the tests into .bin; takes some minutes, once

# The versions are those of the modules in integration/tools. A change there causes a new build.
BUILD_TOOL = CGO_ENABLED=0 $(GO) build -C $(<D) -trimpath -o $(CURDIR)/$@
KUBERNETES_VERSION = $(shell $(GO) list -C integration/tools/kubernetes -m -f '{{.Version}}' k8s.io/kubernetes)

KUBERNETES_LDFLAGS = -s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION)

.bin/kube-%: integration/tools/kubernetes/go.mod
	$(BUILD_TOOL) -ldflags '$(KUBERNETES_LDFLAGS)' k8s.io/kubernetes/cmd/kube-$*

.bin/kubectl: integration/tools/kubernetes/go.mod
	$(BUILD_TOOL) -ldflags '$(KUBERNETES_LDFLAGS)' k8s.io/kubernetes/cmd/kubectl

.bin/etcd: integration/tools/kubernetes/go.mod
	$(BUILD_TOOL) -ldflags '-s -w' go.etcd.io/etcd/server/v3

.bin/coredns: integration/tools/coredns/go.mod
	$(BUILD_TOOL) -ldflags '-s -w' github.com/coredns/coredns

helm: .bin/helm .bin/crds ## build helm for the tests of the chart into .bin, which takes some minutes, once; and copy the CRDs of the Prometheus operator there

.bin/helm: integration/tools/helm/go.mod
	$(BUILD_TOOL) -ldflags '-s -w' helm.sh/helm/v4/cmd/helm

# These are files of the module; nothing is built.
PROMETHEUS_OPERATOR = github.com/prometheus-operator/prometheus-operator
.bin/crds: integration/tools/prometheus-operator/go.mod
	$(GO) -C $(<D) mod download $(PROMETHEUS_OPERATOR)
	rm -rf $@ && mkdir -p $@
	cp $(addprefix $$($(GO) list -C $(<D) -m -f '{{.Dir}}' $(PROMETHEUS_OPERATOR))/example/prometheus-operator-crd/monitoring.coreos.com_,podmonitors.yaml prometheusrules.yaml) $@

clean: ## remove what make built
	rm -rf nfproxy dist .bin
