# Platevault's front door; CI calls the same targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := constraints/dev.txt

.DEFAULT_GOAL := help
.PHONY: help venv run test drills check docs format bench services clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

venv: $(STAMP) ## make the virtual environment and install Platevault with its tools

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev,docs]'
	@touch $@

run: $(STAMP) ## simulate a night end to end, embedded; SERVERS=1: processes over servers
ifdef SERVERS
	@$(BIN)/platevault night run --deployment local-servers --root night/over-servers --camera comcam --camera latiss --exposures 5 --cadence 2
else
	@$(BIN)/platevault night run --root night --camera comcam --camera latiss --exposures 5 --cadence 2
endif

# A selection in PYTEST_ARGS may leave nothing to one of the two halves of `make test` (status 5).
PYTEST := $(BIN)/python -m pytest
OR_NONE := $(if $(PYTEST_ARGS),|| test $$? = 5)

test: $(STAMP) ## run every test (those against servers too, once `make services` was run), drills last
	@$(PYTEST) -n 2 --dist loadfile -m 'not drill' $(PYTEST_ARGS) $(OR_NONE)
	@$(MAKE) --no-print-directory drills

drills: $(STAMP) ## kill every service and every server of a night once, one night at a time
	@$(PYTEST) -m drill --durations=5 $(PYTEST_ARGS) $(OR_NONE)

check: $(STAMP) ## lint, types, layers, documentation
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --cache-dir .import_linter_cache
	@$(MAKE) --no-print-directory docs

docs: $(STAMP) ## build the documentation; warnings are errors
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

format: $(STAMP) ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure pixels, headers and a whole exposure against their peers
	@$(BIN)/platevault bench all --markdown docs/reference/benchmarks

services: ## install Redis, RabbitMQ, PostgreSQL and Kafka for the tests against real servers
	@./deploy/servers/install.sh

clean: ## remove what was built; data in night/ stay
	@rm -rf $(VENV) build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
