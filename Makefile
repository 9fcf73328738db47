# bus1 in user space. `make help` lists what there is; the two commands that matter are
# `make bench` and `make test`. Both install what is missing through apt when they may.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Optional libraries are used when their headers are here, which is asked again after an install: hence
# shell code in the recipes and not a variable that make expands once.
HAVE = $$(tools/have)
BENCH := .build/release/bus1-bench

PREFIX ?= /usr/local

.PHONY: help bench test build library install newcomer rivals compare mutants format clean

help: ## Say what can be made.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

bench: ## bus1 against a pipe: a table, and plots in bench-out/. Under a minute once built.
	@tools/install bench
	@$(MAKE) --no-print-directory build
	@$(BENCH)

test: ## Check format, build, test, model-check, and prove the measuring itself. Prints each stage's time.
	@tools/install test
	@tools/test

build: ## Build the release; the tool is .build/release/bus1-bench.
	@env $(HAVE) swift build -c release

library: ## Build the library for C: libbus1.so and libbus1.a, in .build/library.
	@tools/build-library

install: ## Install what `make library` and `make build` have built; PREFIX=/usr/local and DESTDIR= say where.
	@tools/install-library "$(PREFIX)" "$(DESTDIR)"
	@tools/install-tool "$(PREFIX)" "$(DESTDIR)"

newcomer: ## Take the README's examples into empty folders, build them against an installed copy, run them.
	@tools/newcomer

rivals: ## Install the rivals' libraries and build the release with them.
	@tools/install rivals
	@$(MAKE) --no-print-directory build

compare: ## Measure this tree against BASE=<commit>, interleaved.
	@tools/compare "$(BASE)"

mutants: ## Make small mistakes in the code, one at a time: the tests must see each. Some minutes.
	@tools/mutants

format: ## Format the Swift sources, and wrap C comments, in place.
	@git ls-files "*.swift" | xargs swift format -i
	@git ls-files "*.c" "*.h" | xargs tools/wrap-comments

clean: ## Remove what was built.
	rm -rf .build .build-* bench-out
