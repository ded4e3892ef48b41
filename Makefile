# Everything is done inside .venv; from a fresh clone each target does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PARITY := .venv-parity
PARITY_STAMP := $(PARITY)/.installed
TORCH := torch==2.13.0
CONSTRAINTS := third_party/constraints/cpu.txt

.PHONY: demo test test-hostile test-parity lint install clean

demo: $(STAMP)
	$(BIN)/python launch/self_play.py --config=configs/self_play.py:demo --workdir=runs/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

# The long tests: hostile programs with and without namespaces, overload, lost processes, a run killed 20 times.
test-hostile: $(STAMP)
	$(BIN)/python -m pytest -m hostile

# Models against transformers on torch, in an environment of their own.
test-parity: $(PARITY_STAMP)
	$(PARITY)/bin/python -m pytest -m parity tests/model

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

$(STAMP): setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "o1jax needs Python 3.11 or newer, found $$($(PYTHON) --version): make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[cpu,test]'
	@touch $@

# torch comes first: an index that has a build without CUDA gives that one
$(PARITY_STAMP): setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[cpu,test]'
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY) .jax_cache
