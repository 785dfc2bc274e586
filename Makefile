# Everything from a bare machine with Python 3.11 or newer and pip; needs a network for pip only.
#   make demo     a phantom head is translated and scored; pictures and numbers in medi2i-demo/
#   make test     lint, types, tests with coverage      make test ARGS="-k volume"
#   make lint     ruff and mypy alone
#   make soak     20,000 spoiled inputs and 50 kills of each command (an hour of one core)
#   make audit    known weaknesses of the packages in constraints.txt (needs a network)
#   make bench    seconds and memory beside other tools, in medi2i-benchmark/
#   make clean    remove the virtual environment and what tools left behind

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

# One process per core, up to four (each loads torch), one thread in each: of torch, of numpy and of ITK,
# whose threads wait for each other dozens of times per registration.
CORES := $(shell $(PYTHON) -c "import os; print(min(4, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1))")
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1

.PHONY: demo test lint soak audit bench clean
.DEFAULT_GOAL := test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "medi2i needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps: installed again only when what is asked for has changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fast]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/medi2i demo $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(THREADS) $(BIN)/python -m pytest -n $(CORES) --dist loadgroup --cov --cov-report=term $(ARGS)

soak: $(VENV)/.installed-test
	$(THREADS) $(BIN)/python -m pytest -n $(CORES) --dist loadgroup --soak 20000 tests/soak $(ARGS)

audit: $(BIN)/python
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit -r constraints.txt $(ARGS)

bench: $(VENV)/.installed
	$(BIN)/python pipelines/benchmark.py $(ARGS)

clean:
	rm -rf $(VENV) build medi2i.egg-info medi2i-benchmark medi2i-demo soak-failures .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
