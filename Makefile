# Everything is done inside .venv; from a fresh clone each target does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := third_party/constraints/cpu.txt

PLAN := .venv-plan
PLAN_STAMP := $(PLAN)/.installed

.PHONY: demo test test-hostile test-plan lint install install-plan clean

demo: $(STAMP)
	$(BIN)/python launch/self_play.py --config=configs/self_play.py:demo --workdir=runs/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

# The long tests: hostile programs with and without namespaces, overload, lost processes, a run killed 20 times.
test-hostile: $(STAMP)
	$(BIN)/python -m pytest -m hostile

# Programs compiled for TPUs that are not there: memory, collectives, bounds.
test-plan: $(PLAN_STAMP)
	$(PLAN)/bin/python -m pytest -m plan tests/plan

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

# The compiler for TPUs (libtpu) in an environment of its own, for launch/plan.py; no TPU is needed.
install-plan: $(PLAN_STAMP)

$(PLAN_STAMP): setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(PLAN)
	$(PLAN)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[tpu,test]'
	@touch $@

clean:
	rm -rf $(VENV) $(PLAN) .jax_cache
