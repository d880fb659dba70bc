# `make serve` and `make test` need Python 3.11, make, g++ and a package index; they set up everything else.
PYTHON ?= python3.11
PORT ?= 8000
RUNTIME_PORT ?= 30000
ARGS ?=

export AERIE_CACHE_DIR ?= $(CURDIR)/.cache/aerie
BIN := .venv/bin

.PHONY: help setup setup-dev serve test speedup live-speedup bench-cpu sanitize lint types imports docs docs-check check format lock clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup:
	@command -v $(PYTHON) >/dev/null || { echo "aerie: $(PYTHON) is not installed: install Python 3.11, or name it with PYTHON=" >&2; exit 1; }
	@$(PYTHON) scripts/setup.py runtime-cpu

setup-dev:
	@command -v $(PYTHON) >/dev/null || { echo "aerie: $(PYTHON) is not installed: install Python 3.11, or name it with PYTHON=" >&2; exit 1; }
	@$(PYTHON) scripts/setup.py dev

serve: setup ## SGLang with EAGLE-3 and the gateway on this machine (PORT=, RUNTIME_PORT=, ARGS='--no-speculation')
	@exec $(BIN)/aerie up --port $(PORT) --runtime-port $(RUNTIME_PORT) $(ARGS)

test: setup-dev ## every test, fast ones first (ARGS='-k name')
	-@$(BIN)/python -m scripts.tools >/dev/null
	@$(BIN)/python -m pytest $(ARGS)

speedup: setup-dev ## EAGLE-3 beside plain decoding on this machine (ARGS='--rounds 3', docs/compare.md)
	@$(BIN)/aerie-bench compare $(ARGS)

live-speedup: setup-dev ## the gateway's live speedup against a paired measurement on this machine
	@$(BIN)/python -m scripts.live_speedup $(ARGS)

bench-cpu: setup-dev ## plain decoding beside a bare loop, speculation beside plain decoding (ARGS='--rounds 3')
	@$(BIN)/python -m scripts.bench_cpu $(ARGS)

sanitize: setup-dev ## the CPU kernels' tests under AddressSanitizer, in every instruction set (ARGS='-k linear')
	@$(BIN)/python -m scripts.sanitize $(ARGS)

lint: setup-dev ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup-dev ## mypy --strict
	@$(BIN)/mypy

imports: setup-dev ## what may import what
	@$(BIN)/lint-imports

docs: setup-dev ## rewrite the tables in docs/ from the code
	@$(BIN)/python -m scripts.docs && $(BIN)/python -m scripts.dashboards

docs-check: setup-dev
	@$(BIN)/python -m scripts.docs --check && $(BIN)/python -m scripts.dashboards --check

check: lint types imports docs-check ## all of the above but the tests

format: setup-dev ## rewrite the sources in the one format
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

lock: setup-dev ## pin what is installed into requirements/*.txt
	@$(BIN)/python scripts/lock.py

clean: ## remove the environment and every cache
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
