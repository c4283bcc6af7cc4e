# Every target sets up what it needs: a virtual environment in .venv, with torch pinned first,
# because a plain `pip install torch` on Linux fetches gigabytes of CUDA that no test here uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NEWEST := .venv-newest

.PHONY: demo test test-slow test-newest lint bench clean

demo: $(STAMP)
	$(BIN)/ctxext demo --output-dir runs/demo --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,harness]'
	$(BIN)/python -m pytest -m slow
	CTXEXT_FUZZ_CASES=10000 $(BIN)/python -m pytest tests/fuzz --numprocesses 2

# The newest releases that pyproject.toml allows, in an environment of their own; torch alone stays.
test-newest:
	$(PYTHON) -m venv $(NEWEST)
	grep '^torch==' constraints.txt > $(NEWEST)/torch.txt
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -c $(NEWEST)/torch.txt -e '.[dev]'
	$(NEWEST)/bin/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff format --check ctxext tests
	$(BIN)/ruff check ctxext tests
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/static.py

clean:
	rm -rf $(VENV) $(NEWEST) runs .pytest_cache .mypy_cache .ruff_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "ctxext needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)
