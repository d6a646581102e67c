PYTHON ?= python3
# A run that is trained first if none of its starts has finished.
unfinished = $(if $(wildcard runs/$(1)/version_*/export/last/descore.json),,runs/$(1))
# The newest finished start of a run, once it is trained: version_3.
newest = $$(ls -d runs/$(1)/version_*/export/last | sort -V | tail -n 1 | cut -d / -f 3)

ARGS ?=
train-stage1: CONF ?= conf/stage1.yaml
train-stage2: CONF ?= conf/stage2.yaml
FROM ?= runs/stage1
train-stage1 train-stage2: AGAIN = $(if $(RESUME),--resume $(RESUME))

BIN := .venv/bin
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: runs/stage1 runs/stage2 help setup train-stage1 train-stage2 tiny-backbone demo evidence evidence-quick test test-all lint format tensorboard bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## create .venv and install everything (PYTHON=python3.12 picks the interpreter)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("expected Python 3.11 or newer, got %s from $(PYTHON); try: make setup PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,shards]'
	@touch $@

train-stage1: $(READY) ## train the cold start; CONF=conf/x.yaml and ARGS="--trainer.max_steps 10" override, RESUME=auto goes on
	$(BIN)/python -m descore.train fit -c $(CONF) $(AGAIN) $(ARGS)

train-stage2: $(READY) $(if $(filter runs/stage1,$(FROM)),$(call unfinished,stage1)) ## train stage 2 on the newest finished export of stage 1 (trained first if there is none); FROM=run or export, CONF, ARGS and RESUME as above
	$(BIN)/python -m descore.train fit -c $(CONF) --model.pretrained $(FROM) $(AGAIN) $(ARGS)

runs/stage1: $(READY)
	$(MAKE) train-stage1 CONF=conf/stage1.yaml ARGS= RESUME=

runs/stage2: $(READY) $(call unfinished,stage1)
	$(MAKE) train-stage2 CONF=conf/stage2.yaml FROM=runs/stage1 ARGS= RESUME=

demo: $(READY) $(call unfinished,stage1) $(call unfinished,stage2) ## train both stages where that is not done, evaluate them, and show one page of results
	$(BIN)/descore evaluate --model runs/stage1 --benchmark rendered_ood --limit 150 --output runs/demo/stage1-$(call newest,stage1)
	$(BIN)/descore evaluate --model runs/stage2 --benchmark rendered_ood --limit 150 --output runs/demo/stage2-$(call newest,stage2)
	$(BIN)/descore report runs/demo/stage1-$(call newest,stage1) runs/demo/stage2-$(call newest,stage2) --name "stage 1" --name "stage 2" --output runs/demo/report.html

evidence: $(READY) ## train the paradigms of the paper side by side and show the results; resumes a stopped run
	$(BIN)/python -m benchmarks.evidence $(ARGS)

evidence-quick: $(READY) ## the same with one seed and few pairs, in 3 minutes, to see that all of it runs
	$(BIN)/python -m benchmarks.evidence --quick $(ARGS)

tiny-backbone: $(READY) ## teach anew the tiny backbone that ships with the package, in 150 minutes on two cores; resumes a stopped run
	$(BIN)/python -m pretraining

test test-all: export HF_HUB_OFFLINE = 1
test test-all: export TRANSFORMERS_OFFLINE = 1
test test-all: export OMP_NUM_THREADS = 1

test: $(READY) ## run the tests on all cores, offline; ARGS="-k prompts" selects, ARGS="-n 0" uses one process
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile $(ARGS)

test-all: $(READY) ## run the slow and the GPU tests too, all in one process
	$(BIN)/python -m pytest -m '' $(ARGS)

lint: $(READY) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tensorboard: $(READY) ## show the runs
	$(BIN)/tensorboard --logdir runs

bench: $(READY) ## run every benchmark of speed on the CPU, each against the plain way
	@set -e; for name in stage1_step stage2_update thinking loader; do echo "== $$name"; $(BIN)/python -m benchmarks.speed.$$name; done
