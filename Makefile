# make help explains the targets. Everything is installed into .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= g5k_config/quickstart.json
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test check bench clean testbed

help: ## show this text
	@echo "DecentralizePy: decentralized learning over any topology"
	@echo
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10
	@echo
	@echo "variables: CONFIG=$(CONFIG)  PYTHON=$(PYTHON)"

run: $(VENV)/run ## train sixteen nodes on this machine and draw the curves (half a minute)
	$(BIN)/python g5k_execution.py $(CONFIG)

test: $(VENV)/dev testbed check ## all checks and tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/dev ## linter, formatter and type checker alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev ## measure speed and memory against their bounds (on an idle machine)
	$(BIN)/python -m benchmarks

testbed: # what the tests in tests/cluster need; without it they are skipped
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then scripts/testbed.sh install; \
	else echo "no root on Debian: the tests in tests/cluster will be skipped"; fi

clean: ## remove the environment and the caches in this folder
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; torch is large)"
	$(INSTALL) -e '.[orchestrator,results,digits]'
	@touch $@

$(VENV)/dev: $(VENV)/run
	$(INSTALL) -e '.[dev]'
	@touch $@
