# Plain POSIX make: bmake and gmake. As root; `make demo` and `make test` install what they lack and say what that is.
.POSIX:

CARGO = cargo
SOAK_SECONDS = 300
HOSTILE =
FUZZ_SECONDS = 60
BENCH_PODS = 110
BENCH_SECONDS = 900
BENCH_STEPS = 0,100,200,400

all: build

build:
	$(CARGO) build --workspace

# Everything that CI runs.
test: deps
	$(CARGO) fmt --all --check
	sh ci/dependencies.sh
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace
	$(MAKE) freebsd-check
	$(MAKE) kubelet-freebsd-check kubelet-freebsd
	$(MAKE) fuzz
	$(MAKE) e2e
	$(MAKE) e2e-kubernetes-quick

# The real binary, a real kernel, crictl, our own specs and critest; artifacts/ holds the reports. Run from where cargo put it:
# `cargo run -p` would choose other features than the workspace's and build everything a second time.
e2e: build
	target=`$(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'` && \
	"$$target/debug/e2e" all

# The stock kubelet of Kubernetes on Cellblock: static pods, then a cluster of one node, all steps. A target of its own.
e2e-kubernetes: deps build
	target=`$(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'` && \
	"$$target/debug/e2e" kubernetes

# The same without the steps that wait for minutes: what CI runs. On a fresh machine Kubernetes' programs take ten minutes to build.
e2e-kubernetes-quick: deps build
	target=`$(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'` && \
	"$$target/debug/e2e" kubernetes --quick

# Pods come and go under kills and other faults; then 110 pods under a server that is killed. Nothing may be lost or left.
# HOSTILE=1: instead, an administrator does things to the node: flushed rulesets, destroyed interfaces, a full disk.
soak: deps build
	$(CARGO) run -q -p e2e -- soak --seconds $(SOAK_SECONDS) $(HOSTILE:1=--hostile)

# The fuzz targets, two at a time, each for so long. cargo-fuzz is installed into the target directory when it is not there.
fuzz: deps
	FUZZ_SECONDS=$(FUZZ_SECONDS) sh ci/fuzz.sh

# A pod from a pulled image, step by step, from the binary alone.
demo: deps-demo
	$(CARGO) build -p cri -p monitor
	$(CARGO) run -q -p cri --bin cellblock -- demo

# Clippy and a linked binary for FreeBSD.
freebsd-check:
	sh ci/freebsd-cross.sh check

# Both programs for aarch64, linked; there is no machine to run them on.
freebsd-aarch64:
	CELLBLOCK_CROSS_ARCH=aarch64 sh ci/freebsd-cross.sh link

# A package for pkg(8), of what the port installs: target/package/. PROFILE=dev for a quick one.
package-freebsd:
	sh packaging/freebsd/package.sh

# A kubelet for FreeBSD, from Go modules alone: target/kubelet/. GOARCH=arm64 for another machine.
kubelet-freebsd:
	sh packaging/kubelet/build.sh

# The tests of what it has of ours.
kubelet-freebsd-check:
	sh packaging/kubelet/build.sh check

# The conformance suites, the demo, crictl, our own specs and critest on a FreeBSD machine: FREEBSD_SSH='ssh -p 2222 root@host',
# or FREEBSD_IMAGE=a virtual machine's image. e2e/freebsd/run.sh says what else can be set; artifacts/freebsd holds the reports.
freebsd-e2e:
	sh e2e/freebsd/run.sh

# The control plane and a node on this machine, and that machine as a second node: FREEBSD_SSH, FREEBSD_NODE and FREEBSD_GATEWAY.
e2e-cluster: deps kubelet-freebsd
	sh e2e/freebsd/run.sh cluster

# What a pod costs there: by hand, by the bare system calls, by Cellblock.
bench-freebsd:
	sh e2e/freebsd/run.sh bench

# How fast exec and port-forward are beside containerd, on this machine.
bench-streaming: deps
	$(CARGO) build --release --workspace
	target=`$(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'` && \
	"$$target/release/e2e" bench-streaming

# What pods cost beside containerd, and how that grows with the pods of the node; two containers each: BENCH_STEPS.
bench-pods: deps
	$(CARGO) build --release --workspace
	target=`$(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'` && \
	"$$target/release/e2e" bench-pods --pods $(BENCH_STEPS)

# How fast pulls are beside containerd, on this machine. BENCH_PULL='--rounds 3 --only gzip' for some.
bench-pull: deps
	$(CARGO) build --release --workspace
	target=`$(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'` && \
	"$$target/release/e2e" bench-pull $(BENCH_PULL)

# What 110 pods under the stock kubelet cost beside containerd, for 15 minutes each: BENCH_PODS, BENCH_SECONDS.
bench-kubelet: deps
	$(CARGO) build --release --workspace
	target=`$(CARGO) metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'` && \
	"$$target/release/e2e" bench-kubelet --pods $(BENCH_PODS) --seconds $(BENCH_SECONDS)

# Lines of product, tests and e2e by crate.
lines:
	@sh ci/lines.sh

# No dependency is unused; licences, banned crates and sources.
dependencies:
	sh ci/dependencies.sh

deps:
	sh ci/deps.sh test

deps-demo:
	sh ci/deps.sh demo

clean:
	$(CARGO) clean
	rm -rf artifacts

.PHONY: all build test lines e2e e2e-kubernetes e2e-kubernetes-quick e2e-cluster soak fuzz demo freebsd-check freebsd-aarch64 package-freebsd kubelet-freebsd kubelet-freebsd-check freebsd-e2e bench-freebsd bench-streaming bench-kubelet bench-pods bench-pull dependencies deps deps-demo clean
