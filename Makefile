# `make demo` and `make test` make all that they need, in .venv, from nothing but Python 3.10 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED := fixtures/data/seed

.PHONY: demo test docs fixtures benchmarks clean

# Converts the checkpoint of a small trained network, and prints its scores for eight images.
demo: $(VENV)/.installed
	$(BIN)/bnexport convert $(SEED)/model.ckpt demo.npz
	$(BIN)/bnexport run demo.npz $(SEED)/input.csv

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

# Writes what commands print into README.md and docs/.
docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate.py

# Trains the networks under fixtures/data anew.
fixtures: $(VENV)/.installed-dev
	$(BIN)/python -m fixtures.make

# Writes the tables of benchmarks/README.md; about half an hour.
benchmarks: $(VENV)/.installed-benchmarks
	$(BIN)/python -m benchmarks.record

clean:
	rm -rf $(VENV) build demo.npz

# An environment may have told Python not to keep what it compiles: every start would then compile bnexport anew.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m compileall -q bnexport
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@
