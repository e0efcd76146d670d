# Two commands for a new machine: `make demo` and `make test`. Each sets up .venv by itself.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# torch first and by its exact version: a range would bring the newest build instead of the tested one.
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
LOWEST := .venv-lowest
BENCHMARKS := choices extraction grading leak newcomer parallel routing step_time validation
# Two test processes with one torch thread each.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-packaging test-lowest lint format types docs bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.examples: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet "$(TORCH)"
	$(PIP) install --quiet --constraint constraints.txt --editable ".[examples]"
	@touch $@

$(VENV)/.dev: $(VENV)/.examples
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	@touch $@

setup: $(VENV)/.dev ## make .venv with everything for working on the project

demo: $(VENV)/.examples ## the main job on its built-in default: a table and a figure in results/demo, five minutes on two cores
	$(PY) -m examples.leetcode_grpo demo

test: setup lint types ## lint, types and all fast tests
	$(PY) -m pytest --numprocesses $(WORKERS) --dist loadgroup -m "not slow and not gpu"

test-slow: setup ## the tests that take minutes
	$(PY) -m pytest -m "slow and not gpu" --timeout 3600

test-packaging: setup ## sdist and wheel, the wheel with the lowest versions (torch: pinned, or SVDPROJ_LOWEST_TORCH) and with the pinned
	$(PY) -m pytest tests/packaging --timeout 3600

test-lowest: ## the tests with the lowest declared version of everything, in .venv-lowest (on Linux, GBs of CUDA libraries)
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet $$($(PYTHON) tests/packaging/lowest.py) --editable .
	$(LOWEST)/bin/python -m pytest -o filterwarnings=default --disable-warnings -m "not slow and not gpu" \
		tests/test_*.py tests/properties tests/conformance tests/adapters tests/distributed

lint: setup ## ruff
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup ## let ruff rewrite what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: setup ## mypy
	$(VENV)/bin/mypy

docs: setup ## the documentation site, strictly, into site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

bench: setup ## the benchmarks, on this machine
	for name in $(BENCHMARKS); do $(PY) -m benchmarks.$$name || exit 1; done

clean: ## remove what the targets made; results of runs of your own stay
	rm -rf $(VENV) $(LOWEST) site dist results/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rmdir results 2>/dev/null || true
