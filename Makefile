# `make help` lists what there is to do. Every target builds .venv first, from requirements.lock, when it is missing.
SHELL := /bin/bash
PYTHON ?=
TASK ?= rte
METHOD ?= symlora
MODEL ?= roberta-base
SEED ?= 0
ARGS ?=
# The paper's 25 to 80 epochs take MiniLM on two cores hours; its own protocol takes minutes.
PROTOCOL ?= $(if $(filter minilm,$(MODEL)),short,paper)

RUN := .venv/bin/python
# Without byte code every process parses torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo glue runs config test lint format lock

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo
	@echo '  make glue TASK=<cola|sst2|mrpc|stsb|qqp|mnli|qnli|rte|wnli> [METHOD=symlora|lora|head|full]'
	@echo '            [MODEL=roberta-base|bert-base|minilm] [PROTOCOL=paper|holdout|short|smoke] [SEED=0] [ARGS="key=value ..."]'
	@echo '  GLUE_DIR=<folder> make glue ...   takes the data from a folder instead of the hub'
	@echo '  Defaults: TASK=rte METHOD=symlora MODEL=roberta-base SEED=0, PROTOCOL=paper (short for MODEL=minilm)'

.venv/.ready: requirements.lock scripts/setup.sh
	@bash scripts/setup.sh $(PYTHON)

setup: .venv/.ready ## Build .venv (Python 3.11 to 3.13; PYTHON=<path> chooses)

demo: .venv/.ready ## SymLoRA and LoRA on three demo tasks, 3 seeds: about 2 to 3 minutes, no hub and no data needed
	@$(RUN) scripts/demo.py

glue: .venv/.ready ## Fine-tune on one GLUE task: TASK= METHOD= MODEL= SEED= ARGS=
	@$(RUN) scripts/train.py task=$(TASK) method=$(METHOD) model=$(MODEL) protocol=$(PROTOCOL) seed=$(SEED) $(ARGS)

runs: .venv/.ready ## List the runs in results/runs: mean and spread over the seeds
	@$(RUN) scripts/runs.py

config: .venv/.ready ## Print the configuration that the same `make glue` would run
	@$(RUN) scripts/train.py task=$(TASK) method=$(METHOD) model=$(MODEL) protocol=$(PROTOCOL) seed=$(SEED) $(ARGS) --cfg job --resolve

test: .venv/.ready ## The whole test-suite, under 8 minutes on 2 cores
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto

lint: .venv/.ready ## ruff, and mypy --strict on package, scripts and tests
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: .venv/.ready ## Let ruff mend what it can
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

lock: .venv/.ready ## Renew requirements.lock (torch's CUDA packages are left to torch's own metadata)
	@env -u UV_FIND_LINKS .venv/bin/uv pip compile pyproject.toml --extra minilm --group dev --universal --python-version 3.11 \
	  --no-annotate --no-header --quiet | grep -vE '^(nvidia|cuda|triton)' > requirements.lock.new
	@mv requirements.lock.new requirements.lock
