# make builds the container, make help explains the targets. Everything is installed into .venv; nothing else is
# touched, but that `make test` as root on Debian also installs what builds and runs containers (docs/by_hand.md).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= g5k_config/quickstart.json
IMAGE := compute_container.sif
BUILD_VARIABLES := BOOTSTRAP FROM MIRROR SUITE WHEELS BASE_PYTHON EXTRAS ENGINE BUILD_OPTIONS
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := container
.PHONY: help container container-tests run test check testbed browser bench clean

container: ## (the default) build the container for clusters, compute_container.sif
	@$(foreach name,$(BUILD_VARIABLES),$(if $($(name)),$(name)='$($(name))')) PYTHON=$(PYTHON) \
	scripts/build_container.sh $(IMAGE)

help: ## show this text
	@echo "DecentralizePy: decentralized learning over any topology"
	@echo
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12
	@echo
	@echo "variables: CONFIG=$(CONFIG)  PYTHON=$(PYTHON); of make: $(BUILD_VARIABLES)"

run: $(VENV)/run ## train sixteen nodes on this machine and draw the curves (half a minute)
	$(BIN)/python g5k_execution.py $(CONFIG)

test: $(VENV)/dev check testbed container-tests browser ## all checks and tests
	$(BIN)/python -m pytest -n 3 --dist worksteal

check: $(VENV)/dev ## linter, formatter and type checker alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

container-tests: $(VENV)/dev # set-up of tests/container: what they need, and the image, unless it is there
	@PYTHON=$(BIN)/python scripts/container_for_tests.sh || [ $$? = 3 ] # 3: not on this computer

testbed: # what the tests in tests/cluster need; without it they are skipped
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then scripts/testbed.sh install; \
	else echo "no root on Debian: the tests in tests/cluster will be skipped"; fi

browser: # in which the report page is looked at; without it that test is skipped
	@scripts/install_browser.sh || [ $$? = 3 ]

bench: $(VENV)/dev ## measure speed and memory against their bounds (on an idle machine)
	$(BIN)/python -m benchmarks

clean: ## remove the environment and the caches in this folder
	rm -rf $(VENV) $(IMAGE) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; torch is large)"
	$(INSTALL) -e '.[orchestrator,results,digits,compression,wavelets]'
	@touch $@

$(VENV)/dev: $(VENV)/run
	$(INSTALL) -e '.[dev]'
	@touch $@
