# Thin wrappers of stackctl. `make help` lists them.
# Variables: PYTHON, MODEL, SERVICE, RUNTIME, DRY_RUN=1, PYTEST_ARGS; STACK_HOME and the ports come from the environment.
.POSIX:
SHELL = /bin/sh
PYTHON = python3
UV = uv
VENV = .venv
BIN = $(VENV)/bin
MODEL =
SERVICE =
RUNTIME =
DRY_RUN =
PYTEST_ARGS =
GIVEN = MODEL='$(MODEL)' SERVICE='$(SERVICE)' RUNTIME='$(RUNTIME)' DRY_RUN='$(DRY_RUN)'

# Hash-locked packages into $(VENV), then this checkout. Nothing to do (a stat and a digest) while the lock is the same.
INSTALL = set -eu; \
	key=$$(cat requirements/$$lock.txt pyproject.toml | sha256sum | cut -c1-32); stamp="$(VENV)/.$$lock-$$key"; \
	if [ ! -f "$$stamp" ] || ! $(BIN)/python -c '' 2>/dev/null; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: $(PYTHON) is not Python 3.11 or newer; name another: make PYTHON=python3.11 ..." >&2; exit 4; }; \
	  echo "== environment $(VENV): $$(grep -c '==' requirements/$$lock.txt) packages, locked by hash"; \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear "$(VENV)"; \
	  pip="$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile"; \
	  $$pip --require-hashes -r requirements/$$lock.txt; \
	  $$pip --quiet --no-deps --no-build-isolation -e .; \
	  rm -f "$(VENV)/.$$lock-"*; : > "$$stamp"; \
	fi

LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

.PHONY: help deploy rollback status up down test test-fast check bench lock clean environment dev-environment

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1 : /p' Makefile | awk -F' : ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

deploy: environment ## stack.yaml as it stands, or MODEL=models/tiny-1.1.yaml, RUNTIME=engine/distribution, DRY_RUN=1
	@$(GIVEN); $(BIN)/stackctl deploy --up $${MODEL:+--model "$$MODEL"} $${SERVICE:+--service "$$SERVICE"} \
	  $${RUNTIME:+--runtime "$$RUNTIME"} $${DRY_RUN:+--dry-run}

rollback: environment ## back to the last known good, by hand
	@$(GIVEN); $(BIN)/stackctl rollback $${SERVICE:+--service "$$SERVICE"}

status: environment ## what is true now
	@$(BIN)/stackctl status

up: environment ## start gateway and control plane
	@$(BIN)/stackctl up

down: environment ## stop gateway, control plane and local replicas
	@$(BIN)/stackctl down

test: check ## everything the project claims, checked (real engine, faults: minutes)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: check ## the quick part of it
	@$(BIN)/python -m pytest -m "not e2e and not faults and not training and not compiler" $(PYTEST_ARGS)

check: dev-environment ## ruff, mypy, import contracts
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import contracts" && $(BIN)/lint-imports

bench: dev-environment ## the figures of README, measured here
	@$(BIN)/python -m bench

lock: ## write requirements/*.txt anew from *.in (needs uv)
	@cd requirements && $(LOCK) base.in -o base.txt && $(LOCK) -c base.txt dev.in -o dev.txt

clean: ## remove what make built; the state (.stack) stays
	@rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

environment:
	@lock=base; $(INSTALL)

dev-environment:
	@lock=dev; $(INSTALL)
