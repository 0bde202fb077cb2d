# `make help` lists what there is to do. Every target builds .venv first, from requirements.lock, when it is missing.
SHELL := /bin/bash
PYTHON ?=
TASK ?= rte
METHOD ?= symlora
MODEL ?= roberta-base
SEED ?= 0
ARGS ?=
N ?= 5
# The paper's 25 to 80 epochs take hours with MiniLM on two cores; its own protocol takes minutes.
PROTOCOL ?= $(if $(filter minilm,$(MODEL)),short,paper)

PY := .venv/bin/python
SYMLORA := $(PY) -m symlora
# Without byte code every process parses torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo glue evaluate methods bench runs verify-results table1 figure1 audit report sweep select seeds study status paper submission docs docs-check config test contract cluster-test install-test faults lint format lock

help: ## Print this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo '  make glue TASK=<cola|sst2|mrpc|stsb|qqp|mnli|qnli|rte|wnli> [METHOD=symlora|lora|head|full]'
	@echo '            [MODEL=roberta-base|bert-base|minilm] [PROTOCOL=paper|holdout|short|smoke] [SEED=0] [ARGS="key=value ..."]'
	@echo '  GLUE_DIR=<folder> make glue ...   takes the data from a folder instead of the hub'
	@echo '  Defaults: TASK=rte METHOD=symlora MODEL=roberta-base SEED=0, PROTOCOL=paper (short for MODEL=minilm)'

.venv/.ready: requirements.lock scripts/setup.sh
	@bash scripts/setup.sh $(PYTHON)

setup: .venv/.ready ## Build .venv (Python 3.11 to 3.13; PYTHON=<path> chooses)

demo: .venv/.ready ## Train SymLoRA, LoRA and the head on three demo tasks, 3 seeds: 1 to 4 minutes, needs no hub and no data
	@$(SYMLORA) demo $(ARGS)

glue: .venv/.ready ## Fine-tune on one GLUE task: TASK= METHOD= MODEL= SEED= ARGS=
	@$(SYMLORA) train task=$(TASK) method=$(METHOD) model=$(MODEL) protocol=$(PROTOCOL) seed=$(SEED) $(ARGS)

evaluate: .venv/.ready ## Score finished runs or adapters without training: RUN=<run or results folder> (ARGS="--split validation --data <folder>")
	@$(SYMLORA) evaluate $(RUN) $(ARGS)

methods: .venv/.ready ## List the methods and their trained parameters on RoBERTa-base (ARGS=--markdown, ARGS="--method symlora")
	@$(SYMLORA) methods $(ARGS)

# The study's tasks: TASKS, or TASK on the command line, else all of the protocol's recipe. For MiniLM the study uses the short
# protocol in which validation chooses nothing.
ifneq ($(origin PROTOCOL),environment)
sweep select seeds study status: PROTOCOL = $(if $(filter minilm,$(MODEL)),short_holdout,paper)
endif
SWEPT = $(if $(TASKS),$(shell echo $(TASKS) | tr -s ', ' ','),$(TASK))
STUDY_TASKS = $(or $(TASKS),$(if $(filter file,$(origin TASK)),,$(TASK)))
METHODS = $(if $(filter file,$(origin METHOD)),,$(METHOD))
STUDY = --tasks "$(STUDY_TASKS)" --model $(MODEL) --protocol $(PROTOCOL) $(if $(METHODS),--methods "$(METHODS)")

sweep: .venv/.ready ## Train the grid of a task, the same for SymLoRA and LoRA: TASK= or TASKS= MODEL= PROTOCOL= ARGS=
	@$(SYMLORA) train -m sweep=grid task=$(SWEPT) $(if $(METHODS),method=$(METHODS)) model=$(MODEL) protocol=$(PROTOCOL) $(ARGS)

select: .venv/.ready ## Write the best grid point of each method and task to configs/best (WIDEN="--widen [--run]": go beyond the grid's edges)
	@$(SYMLORA) select $(STUDY) $(WIDEN) $(ARGS)

seeds: .venv/.ready ## Train seeds 0 to N-1 of the selected points: TASK= or TASKS= MODEL= PROTOCOL= N=5 ARGS=
	@$(SYMLORA) train -m sweep=seeds task=$(SWEPT) $(if $(METHODS),method=$(METHODS)) model=$(MODEL) protocol=$(PROTOCOL) 'seed=range($(N))' $(ARGS)

study: .venv/.ready ## Run sweep, select and seeds for TASKS="rte mrpc" (default: all of the protocol's recipe); resumable
	@$(SYMLORA) study $(STUDY) --seeds $(N) $(ARGS)

status: .venv/.ready ## Count the study's finished, running, failed and missing runs, and estimate the time left
	@$(SYMLORA) status $(STUDY) --seeds $(N) $(ARGS)

paper: .venv/.ready ## Reproduce the paper's Table 1 on RoBERTa-base: days on one GPU (ARGS=--estimate says how many); resumable
	@$(SYMLORA) paper --model $(MODEL) --seeds $(N) --tasks "$(STUDY_TASKS)" $(ARGS)

bench: .venv/.ready ## Compare speed and memory with Hugging Face's Trainer + PEFT: about 12 minutes (ARGS=--quick: under 2)
	@$(PY) scripts/bench $(ARGS)

runs: .venv/.ready ## List the runs in results/runs, with mean and spread over the seeds
	@$(SYMLORA) runs $(ARGS)

verify-results: .venv/.ready ## Hash every file of every run again, to find files that were changed, cut short or lost
	@$(SYMLORA) verify $(ARGS)

table1: .venv/.ready ## Write Tables 1 to 4 from the runs to results/tables (ARGS="--strict", --results-dir, --out, --tasks)
	@$(SYMLORA) report table1 $(ARGS)

figure1: .venv/.ready ## Draw Figure 1 and its companions from the runs into results/figures (ARGS=--as-paper)
	@$(SYMLORA) report figure1 $(ARGS)

audit: .venv/.ready ## Recompute the paper's printed numbers, into results/audit.md and audit.html; needs no run
	@$(SYMLORA) report audit $(ARGS)

report: .venv/.ready ## Make all of these, and the symmetry of the updates, on one page: results/report.html
	@$(SYMLORA) report report $(ARGS)

submission: .venv/.ready ## Zip test predictions for the GLUE server: METHOD= MODEL= PROTOCOL= ARGS= (ARGS="--check FILE.zip": check one)
	@$(SYMLORA) submission --protocol $(PROTOCOL) --model $(MODEL) --method $(METHOD) $(ARGS)

config: .venv/.ready ## Print the configuration that the same `make glue` would use
	@$(SYMLORA) train task=$(TASK) method=$(METHOD) model=$(MODEL) protocol=$(PROTOCOL) seed=$(SEED) $(ARGS) --cfg job --resolve

test: .venv/.ready ## Run the tests: about 7 minutes on 2 quiet cores
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal

contract: .venv/.ready ## Run PEFT's own test suite on every method in every configuration
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto -m contract tests/test_peft_contract.py $(ARGS)

cluster-test: .venv/.ready ## Start Slurm and Ray on this machine and run sweeps on both: about 8 minutes
	@bash tests/cluster/run.sh $(ARGS)

install-test: .venv/.ready ## Test the wheel in fresh environments, base and full: about 2 minutes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m install tests/test_install.py

faults: .venv/.ready ## Test kills, full disks, damaged files and wrong settings: about 20 minutes (ARGS="--kills 20 --bad 40": fewer)
	@PYTHONPATH=tests $(PY) -m faults $(ARGS)

docs: .venv/.ready ## Build these pages and the API reference as a site: .cache/site/index.html
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict -f scripts/docs/mkdocs.yml $(ARGS)

docs-check: .venv/.ready ## Check every link and command of the pages, run the cheap commands and the notebooks, build the site: about 2 minutes
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal -m "" tests/test_docs.py tests/test_docs_tables.py tests/test_notebooks.py $(ARGS)

lint: .venv/.ready ## Run ruff, codespell, mypy --strict on package, scripts and tests, and a check of the pages' sentences
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/codespell *.md docs configs symlora scripts
	@$(PY) scripts/docs/readability.py $(wildcard *.md docs/*.md) results/README.md
	@.venv/bin/mypy

format: .venv/.ready ## Let ruff fix what it can
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

lock: .venv/.ready ## Renew requirements.lock (torch's own metadata pins its CUDA packages)
	@env -u UV_FIND_LINKS .venv/bin/uv pip compile pyproject.toml --extra glue --extra minilm --extra launchers --extra optuna --extra docs --group dev --universal --python-version 3.11 \
	  --no-annotate --no-header --quiet | grep -vE '^(nvidia|cuda|triton)' > requirements.lock.new
	@mv requirements.lock.new requirements.lock
