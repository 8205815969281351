# Two commands: `make demo` and `make test`. `make help` lists the rest.

CARGO      ?= cargo
# A fully static glibc binary needs the target named and libelf, libz as archives.
TARGET     ?= $(shell uname -m)-unknown-linux-gnu
STATIC     := RUSTFLAGS="-C target-feature=+crt-static" LIBBPF_SYS_LIBRARY_PATH=/usr/lib/$(shell uname -m)-linux-gnu:/usr/lib64
OUT        := $(or $(CARGO_TARGET_DIR),target)
# One build serves the tests, the guests and the demo: Cargo.toml says what this profile is.
CI         := --locked --profile ci
FUZZ_TIME  ?= 10
KERNELS    ?= 5.10 6.1 6.12 newest
SUDO       := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
AS_ROOT     = $(SUDO) env "PATH=$(PATH)"

# Where `.ci/setup tools` puts cargo-nextest and cargo-deny. Once only: another PATH makes some crates compile again.
TOOLS      := $(CURDIR)/target/tools/bin
export PATH := $(if $(findstring $(TOOLS):,$(PATH)),$(PATH),$(TOOLS):$(PATH))

.PHONY: help demo test fuzz vm-test bench lint audit gen setup release package test-package clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo bench: SETUP = demo
demo: setup ## Build flowtag and watch it mark a real transfer between two hosts
	$(CARGO) build $(CI) --package flowtag --package flowtag-demo
	$(SUDO) $(OUT)/ci/flowtag-demo

test lint: SETUP = tools
test: setup ## Run every test on this kernel (needs root for namespaces and eBPF)
	@rm -f target/nextest/default/junit.xml; status=0; \
	$(AS_ROOT) $(CARGO) nextest run --locked --cargo-profile ci --workspace || status=1; \
	$(AS_ROOT) $(CARGO) test $(CI) --workspace --doc --quiet || status=1; \
	$(AS_ROOT) $(CARGO) xtask summary || status=1; \
	exit $$status

fuzz: SETUP = build
fuzz: setup ## Fuzz each parser for FUZZ_TIME seconds
	FUZZ_TIME=$(FUZZ_TIME) fuzz/run

vm-test: SETUP = vm
vm-test: setup ## Run the integration tests under other kernels (KERNELS="6.1 6.12")
	$(CARGO) xtask vm-test $(addprefix --kernel ,$(KERNELS))
	$(CARGO) xtask kernels-doc

bench: setup ## Measure costs and write docs/performance.md
	$(CARGO) build --locked --release --package flowtag --package flowtag-bench
	$(SUDO) $(OUT)/release/flowtag-bench

lint: setup ## Everything a machine can object to
	$(CARGO) fmt --all --check
	files=$$(git ls-files '*.bpf.c' '*.bpf.h' 'bpf/abi/*.h' 'crates/kernel/src/probes/*/abi.h') && [ -n "$$files" ] && \
	  clang-format --dry-run --Werror $$files
	$(CARGO) clippy $(CI) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(CI) --workspace --no-deps --document-private-items --quiet
	$(CARGO) xtask gen --check
	$(CARGO) deny check licenses bans sources

audit: setup ## Known vulnerabilities in what we depend on (needs the network)
	$(CARGO) deny check advisories

gen: ## Generate Rust types from bpf/abi
	$(CARGO) xtask gen

release: SETUP = build
release: setup ## A fully static binary in target/$(TARGET)/release
	$(STATIC) $(CARGO) build --locked --release --bin flowtag --target $(TARGET) --features flowtag/static

package: SETUP = package
package: setup release ## A .deb and an .rpm of the static binary in target/package
	packaging/build $(OUT)/$(TARGET)/release/flowtag $(OUT)/package

test-package: SETUP = package
test-package: setup ## Install, use, update and remove packages of the binary of the tests, on copies of this machine
	$(CARGO) build $(CI) --package flowtag
	packaging/build $(OUT)/ci/flowtag $(OUT)/package-ci
	$(SUDO) packaging/test $(OUT)/package-ci

setup: ## Install what building and testing need (Debian, Ubuntu, EL)
	@./.ci/setup $(SETUP)

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts
