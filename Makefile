# What a newcomer runs: `make demo`, `make test`. All targets set up .venv by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ORACLE := .venv-oracle
PEERS := .venv-peers
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help install install-dev demo test check format oracle peers golden clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/python-checked:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(None if ok else \
	"found Python %d.%d, expected 3.11 to 3.13: name one with `make PYTHON=python3.12 ...`" % sys.version_info[:2])'
	@echo "installing into $(VENV): a few minutes, about 2 GB"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/python-checked pyproject.toml constraints.txt requirements-demo.txt
	$(PIP) --no-deps --require-hashes -r requirements-demo.txt
	$(PIP) -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -c constraints.txt -e '.[demo,dev,int8]'
	@touch $@

install: $(VENV)/installed  ## set up .venv with what the demo needs

install-dev: $(VENV)/installed-dev  ## set up .venv with what tests and checks need

demo: install  ## run the whole loop on a real Wikipedia excerpt
	$(BIN)/realm demo $(ARGS)

test: install-dev  ## run all tests
	$(BIN)/python -m pytest tests $(ARGS)

check: install-dev  ## lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install-dev  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(ORACLE)/installed: tests/golden/requirements.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); sys.exit(None if ok else \
	"found Python %d.%d, expected 3.11 or 3.12: name one with `make PYTHON=python3.12 ...`" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

oracle: $(ORACLE)/installed  ## set up .venv-oracle with transformers 4.40.2, which has the published REALM

$(PEERS)/installed: benchmarks/requirements-peers.txt | $(ORACLE)/installed
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

peers: $(PEERS)/installed  ## set up .venv-oracle and .venv-peers, with which benchmarks.embed compares

golden: oracle  ## rebuild the golden files of tests/golden with transformers 4.40.2: about a minute
	PYTHONPATH=tests $(ORACLE)/bin/python -m golden.generate

clean:  ## remove the demo's store and report; .venv stays
	rm -rf demo-store report.html
