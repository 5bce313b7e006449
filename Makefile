# Two commands: `make demo` and `make test`. Both need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?=

.PHONY: demo test test-cluster faults check install sbom audit clean
.DEFAULT_GOAL := help

.PHONY: help
help:  ## What there is to make.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard registry/*/*.c serving/*/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test]'
	@touch $@

install: $(VENV)/.installed  ## The virtual environment with everything in it.

demo: install  ## Start the platform, train, serve, measure; Ctrl-C ends it. DEMO=--exit ends by itself.
	@$(BIN)/sluice demo $(DEMO)

test: install  ## The whole suite: style, types, tests, doctests.
	@$(MAKE) --no-print-directory check
	@BIN=$(BIN) deploy/scripts/test $(TESTS)
	@test -n "$(TESTS)" || $(MAKE) --no-print-directory test-cluster

test-cluster: install  ## What takes any Redis, on a Redis Cluster of three; `make test` does it, too.
	@BIN=$(BIN) deploy/scripts/test --redis cluster tests

faults: install  ## Breaks a running platform in every way there is a promise about, and counts what is lost. FAULTS='--seed 2'
	@deploy/scripts/faketime
	@$(BIN)/python -m tests.faults $(FAULTS)

check: install  ## Style, import order, strict types.
	@BIN=$(BIN) deploy/scripts/check

sbom: install  ## What this is made of, as CycloneDX: sluice.cdx.json.
	@BIN=$(BIN) deploy/scripts/sbom sluice.cdx.json

audit: install  ## Known vulnerabilities of what it is made of; skipped, with the reason, where nobody can be asked.
	@BIN=$(BIN) deploy/scripts/audit

clean:  ## Removes the virtual environment and caches; the data folder .sluice stays.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
