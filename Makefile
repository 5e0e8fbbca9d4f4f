# Parley. `make` lists what there is; `make check` is what CI runs.

PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
EDGES ?= 1
CHATS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-run setup-python protos settings images format static lint test check simulate run stack stack-down stack-status bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install everything that check needs (again only where something changed)
	@$(PYTHON) scripts/setup.py

setup-run:
	@$(PYTHON) scripts/setup.py --run

setup-python:
	@$(PYTHON) scripts/setup.py --python

run: setup-run ## everything in one process on http://127.0.0.1:8080, no servers needed
	@$(PY) -m scripts.web
	@exec $(PY) -m services $(ARGS)

stack: setup ## the full stack with real servers, EDGES=2 CHATS=2 for several of each
	@$(PY) -m scripts.web
	@$(PY) -m scripts.stack up --edges $(EDGES) --chats $(CHATS)

stack-down: ## stop that stack
	@$(PY) -m scripts.stack down

stack-status: ## what of it is running, and where
	@$(PY) -m scripts.stack status || true

check: setup static test ## what CI runs: set-up, static checks, tests

static: setup-python ## format, lint, types, import contracts, protos, drift of generated code
	@echo "static: ruff format"
	@$(PY) -m ruff format --check --quiet .
	@echo "static: ruff check"
	@$(PY) -m ruff check --quiet --output-format concise .
	@echo "static: mypy"
	@$(PY) -m mypy --no-error-summary
	@echo "static: import contracts"
	@.venv/bin/lint-imports --no-logo >.local/lint-imports.log 2>&1 || { cat .local/lint-imports.log; exit 1; }
	@echo "static: protos"
	@.venv/bin/buf lint
	@$(PY) -m scripts.protos --breaking
	@$(PY) -m scripts.protos --check
	@echo "static: settings reference"
	@$(PY) -m scripts.settings --check

lint: static

test: setup ## every test, warnings as errors, real servers; ARGS='-k name' for some
	@$(PY) -m scripts.web --needed
	@echo "test: pytest"
	@$(PY) -m pytest $(ARGS)

images: setup ## take the screenshots of the README again
	@$(PY) -m scripts.web --needed
	@PARLEY_IMAGES=docs/images $(PY) -m pytest tests/browser -k screenshots

format: setup-python ## format the code and sort its imports
	@$(PY) -m ruff check --quiet --select I --fix .
	@$(PY) -m ruff format --quiet .

protos: setup-python ## generate the Python of protos/ beside its sources
	@$(PY) -m scripts.protos

settings: setup-python ## write docs/settings.md from the code
	@$(PY) -m scripts.settings

bench: setup ## load the stack and measure it: messages/s, latency, CPU per message, beside MongoDB alone
	@$(PY) -m bench $(ARGS)

simulate: setup-python ## seeded disasters of the chat core in virtual time; ARGS='--seeds 10000 --from 0'
	@$(PY) -m tests.simulation $(ARGS)

clean: ## stop the stack and remove what tools left; keeps .venv
	@if [ -x $(PY) ]; then $(PY) -m scripts.stack down --quiet; fi
	@rm -rf .local/stack .local/tests .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build
	@find . -name __pycache__ -not -path './.venv/*' -not -path '*/node_modules/*' -prune -exec rm -rf {} +
