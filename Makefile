# `make help` lists what there is to do. Every target builds .venv first, from requirements.lock, when it is missing.
SHELL := /bin/bash
PYTHON ?=
TASK ?= rte
METHOD ?= symlora
MODEL ?= roberta-base
SEED ?= 0
ARGS ?=
N ?= 5
# The paper's 25 to 80 epochs take MiniLM on two cores hours; its own protocol takes minutes.
PROTOCOL ?= $(if $(filter minilm,$(MODEL)),short,paper)

RUN := .venv/bin/python
SYMLORA := $(RUN) -m symlora
# Without byte code every process parses torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo glue methods bench runs verify-results table1 figure1 audit report sweep select seeds study status submission docs-check config test install-test faults lint format lock

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo '  make glue TASK=<cola|sst2|mrpc|stsb|qqp|mnli|qnli|rte|wnli> [METHOD=symlora|lora|head|full]'
	@echo '            [MODEL=roberta-base|bert-base|minilm] [PROTOCOL=paper|holdout|short|smoke] [SEED=0] [ARGS="key=value ..."]'
	@echo '  GLUE_DIR=<folder> make glue ...   takes the data from a folder instead of the hub'
	@echo '  Defaults: TASK=rte METHOD=symlora MODEL=roberta-base SEED=0, PROTOCOL=paper (short for MODEL=minilm)'

.venv/.ready: requirements.lock scripts/setup.sh
	@bash scripts/setup.sh $(PYTHON)

setup: .venv/.ready ## Build .venv (Python 3.11 to 3.13; PYTHON=<path> chooses)

demo: .venv/.ready ## SymLoRA and LoRA on three demo tasks, 3 seeds: about 2 to 3 minutes, no hub and no data needed
	@$(SYMLORA) demo $(ARGS)

glue: .venv/.ready ## Fine-tune on one GLUE task: TASK= METHOD= MODEL= SEED= ARGS=
	@$(SYMLORA) train task=$(TASK) method=$(METHOD) model=$(MODEL) protocol=$(PROTOCOL) seed=$(SEED) $(ARGS)

methods: .venv/.ready ## Table of the methods, trained parameters on RoBERTa-base (ARGS=--markdown, ARGS="--method symlora")
	@$(SYMLORA) methods $(ARGS)

# Of the study: the tasks that were named (TASKS, or TASK on the command line), else all of the protocol's recipe; and for
# MiniLM the short protocol in which validation chooses nothing.
sweep select seeds study status: PROTOCOL = $(if $(filter minilm,$(MODEL)),short_holdout,paper)
STUDY_TASKS = $(or $(TASKS),$(if $(filter file,$(origin TASK)),,$(TASK)))
STUDY = --tasks "$(STUDY_TASKS)" --model $(MODEL) --protocol $(PROTOCOL)

sweep: .venv/.ready ## Grid of one task at one seed, SymLoRA and LoRA alike: TASK= MODEL= PROTOCOL= ARGS=
	@$(SYMLORA) train -m sweep=grid task=$(TASK) model=$(MODEL) protocol=$(PROTOCOL) $(ARGS)

select: .venv/.ready ## Best grid point of each method and task, into configs/best (WIDEN="--widen [--run]" goes beyond its edges)
	@$(SYMLORA) select $(STUDY) $(WIDEN) $(ARGS)

seeds: .venv/.ready ## Seeds 0 to N-1 of what was selected: TASK= MODEL= PROTOCOL= N=5 ARGS=
	@$(SYMLORA) train -m sweep=seeds task=$(TASK) model=$(MODEL) protocol=$(PROTOCOL) 'seed=range($(N))' $(ARGS)

study: .venv/.ready ## Grid, selection and seeds of TASKS="rte mrpc" (all of the protocol's recipe if not given); resumable
	@$(SYMLORA) study $(STUDY) --seeds $(N) $(ARGS)

status: .venv/.ready ## Runs of the study that are finished, running, failed or missing, and the time left
	@$(SYMLORA) status $(STUDY) --seeds $(N) $(ARGS)

bench: .venv/.ready ## Speed, memory and share of the peak beside Hugging Face's Trainer + PEFT, about 20 minutes (ARGS=--quick: few)
	@$(RUN) scripts/bench $(ARGS)

runs: .venv/.ready ## List the runs in results/runs: mean and spread over the seeds
	@$(SYMLORA) runs $(ARGS)

verify-results: .venv/.ready ## Hash every file of every run again: nothing was changed, cut short or lost
	@$(SYMLORA) verify $(ARGS)

table1: .venv/.ready ## Tables 1 to 4 from the runs, into results/tables (ARGS="--strict", --results-dir, --out, --tasks)
	@$(SYMLORA) report table1 $(ARGS)

figure1: .venv/.ready ## Figure 1 and its companions from the runs, into results/figures (ARGS=--as-paper)
	@$(SYMLORA) report figure1 $(ARGS)

audit: .venv/.ready ## What the paper's printed numbers imply, into results/audit.md and audit.html; needs no run
	@$(SYMLORA) report audit $(ARGS)

report: .venv/.ready ## All of these, and the symmetry of the updates, on one page: results/report.html
	@$(SYMLORA) report report $(ARGS)

submission: .venv/.ready ## Zip of test predictions for the GLUE server: METHOD= MODEL= PROTOCOL= ARGS= (ARGS="--check FILE.zip": checks one)
	@$(SYMLORA) submission --protocol $(PROTOCOL) --model $(MODEL) --method $(METHOD) $(ARGS)

config: .venv/.ready ## Print the configuration that the same `make glue` would run
	@$(SYMLORA) train task=$(TASK) method=$(METHOD) model=$(MODEL) protocol=$(PROTOCOL) seed=$(SEED) $(ARGS) --cfg job --resolve

test: .venv/.ready ## The whole test-suite, 8 to 9 minutes on 2 cores
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal

install-test: .venv/.ready ## The wheel in fresh environments, base and full: about 3 minutes
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -m install tests/test_install.py

faults: .venv/.ready ## Kills, full disks, damaged files, wrong settings: nothing is lost, about 20 minutes (ARGS="--kills 20 --bad 40": fewer)
	@PYTHONPATH=tests $(RUN) -m faults $(ARGS)

docs-check: .venv/.ready ## Check every link and command of the pages, run the cheap commands and the notebooks: about 2 minutes
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal -m "" tests/test_docs.py tests/test_docs_tables.py tests/test_notebooks.py $(ARGS)

lint: .venv/.ready ## ruff, and mypy --strict on package, scripts and tests
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: .venv/.ready ## Let ruff mend what it can
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

lock: .venv/.ready ## Renew requirements.lock (torch's CUDA packages are left to torch's own metadata)
	@env -u UV_FIND_LINKS .venv/bin/uv pip compile pyproject.toml --extra glue --extra minilm --extra launchers --extra optuna --group dev --universal --python-version 3.11 \
	  --no-annotate --no-header --quiet | grep -vE '^(nvidia|cuda|triton)' > requirements.lock.new
	@mv requirements.lock.new requirements.lock
