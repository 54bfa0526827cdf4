# Each target sets everything up by itself from a bare clone.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-fast lint types

# the main job on data it makes itself: train, evaluate, print the table; goes on where it stopped
demo: $(VENV)/.installed
	$(BIN)/python tools/main.py --config-file configs/stmn_synthetic.yaml model.resume auto

test: $(VENV)/.installed
	$(BIN)/python -m pytest

# without the runs of whole commands
test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@
