# Every habit of the house has a name here; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
STAMP := .venv/.ready

# Most tests wait for something, so they run side by side; but not those that judge by the clock.
# A base of its own: the path of a unix socket has room for some hundred characters.
SIDE_BY_SIDE = $(PYTEST) --dist loadfile --basetemp=$$(mktemp -d)
TIMED := tests/e2e/test_demo.py tests/e2e/test_compose.py

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: setup
setup: $(STAMP) ## put everything in .venv (the CLI is .venv/bin/dumont)

$(STAMP): requirements-dev.txt pyproject.toml deploy/install-system.sh
	deploy/install-system.sh
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: demo
demo: setup ## lose a simulated GPU and get it back, on this machine, in a minute
	$(BIN)/dumont demo $(DEMO)

.PHONY: up
up: ## the full stack in containers
	docker compose -f deploy/compose.yml up --build --wait

.PHONY: down
down: ## end the full stack, keep its data
	docker compose -f deploy/compose.yml --profile simulator down

.PHONY: test
test: WHICH := -m "not full"
test: setup all-tests ## every test once, at the smallest size that still shows the fault

.PHONY: test-full
test-full: setup all-tests ## everything, at full size (hours)

.PHONY: all-tests
all-tests: setup
	$(SIDE_BY_SIDE) -n 4 $(WHICH) tests/unit tests/contract
	$(SIDE_BY_SIDE) -n 2 $(WHICH) tests/e2e $(TIMED:%=--ignore=%)
	$(PYTEST) $(WHICH) $(TIMED)

.PHONY: bench
bench: bench-log ## measure everything, beside others

BENCH_STAMP := .venv/.bench-ready

.PHONY: bench-log
bench-log: $(BENCH_STAMP) ## the event log beside another Postgres event store (about ten minutes)
	$(BIN)/python -m benchmarks.log $(BENCH)

$(BENCH_STAMP): $(STAMP) requirements-bench.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@

.PHONY: unit
unit: setup ## the tests without servers
	$(PYTEST) tests/unit

.PHONY: mutants
mutants: setup ## plant known bugs in copies of the tree: each must be caught
	$(BIN)/python -m tests.mutants

.PHONY: sim
sim: setup ## play SEEDS seeds of the simulation lab (default 500), fresh ones unless SEED says
	$(BIN)/python -m lab sim --seeds $(or $(SEEDS),500) $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace $(TRACE))

.PHONY: sim-pairs
sim-pairs: setup ## kill the services at all pairs of crash points of an incident
	$(BIN)/python -m lab pairs

.PHONY: sim-regressions
sim-regressions: setup ## play the stored stories that once broke a promise
	$(BIN)/python -m lab regressions

.PHONY: lab
lab: setup ## what CI plays in the lab: seeds that are the same each time, and all that is stored
	$(MAKE) sim SEEDS=500 SEED=930000
	$(MAKE) sim SEEDS=20 SEED=1 TRACE=synthetic
	$(MAKE) sim-regressions sim-pairs

.PHONY: check
check: setup ## format, lint, types, import rules, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/generate.py --check

.PHONY: fmt
fmt: setup ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: setup ## write the generated documents anew
	$(BIN)/python docs/generate.py

.PHONY: lock
lock: setup ## resolve the dependencies anew
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 --extra dev pyproject.toml -o requirements-dev.txt
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 --extra bench --constraint requirements-dev.txt pyproject.toml -o requirements-bench.txt

.PHONY: clean
clean: ## remove what can be made again
	rm -rf .venv build .mypy_cache .ruff_cache .import_linter_cache
