# setup       make .venv and install rl-llm there, editable, with what the tests need
# quickstart  train the shipped model with recipes/quickstart.yaml
# check       format, lint, types and the fast tests
# test        the whole suite

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: setup quickstart check test

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := dev,gguf,reasoning-gym,trl
# Overridable, as in `make setup PYTHON=/usr/bin/python3.12`.
PYTHON ?= python3
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8

setup: $(STAMP)
	@:

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  2>/dev/null || { found=$$($(PYTHON) --version 2>/dev/null || echo not found); \
	  echo "error: rl-llm needs Python >= 3.11, and $(PYTHON) is $$found;" \
	    "name another one, as in: make setup PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing rl-llm[$(EXTRAS)] into $(VENV); this takes a minute or more"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

quickstart: setup
	@$(BIN)/rl-llm train recipes/quickstart.yaml

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

test: setup
	$(PYTEST)
