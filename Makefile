# Everything that one does with this repository, by one name each. `make help` lists them.

CARGO ?= cargo
HERE := $(CURDIR)

.PHONY: help build demo test logic integration lint vm deny bench fuzz install clean

help: ## list what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## the programs, optimised: in target/release
	@tools/install-packages build
	tools/build --release

demo: ## the demonstration: four hosts, two HyperSpectors, attacks, a table (KEEP=1 leaves it up)
	demo/run $(if $(KEEP),--keep)

test: ## all tests: formatting, lints, logic, and integration as root
	@tools/install-packages build test
	$(MAKE) lint
	$(MAKE) logic
	$(MAKE) integration

logic: ## the tests that need no root
	$(CARGO) test --locked --workspace --lib --bins
	$(CARGO) test --locked -p hyperspector-spec -p hyperspector-syscalls

integration: ## the tests that need root: real namespaces, real programs
	tests/run

lint: ## formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

vm: ## the integration tests under another kernel, emulated: KERNEL=linux-image-….deb (TESTS=packets, say)
	@tools/install-packages build test vm
	tests/vm/product $(KERNEL) $(TESTS)

deny: ## licences, sources and duplicates of the dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

bench: ## measurements, as ratios (NAME=packets, files, changes, start, server, tee, syscalls, vpn, vpn-flood or vpn-scale; all without)
	@tools/install-packages build bench
	bench/run $(NAME)

fuzz: ## what is parsed of system calls and by the VPN, by LLVM's fuzzer (SECONDS=60 for each target)
	for target in records stream request datagrams frame operator addresses; do fuzz/run $$target $(or $(SECONDS),60) || exit 1; done

install: build ## the programs to $(DESTDIR)/usr/local/sbin
	install -D -m 755 -t $(DESTDIR)/usr/local/sbin target/release/hyperspector \
		target/release/hyperspector-changes target/release/hyperspector-strace

clean: ## what was built
	$(CARGO) clean
