# `make` lists the targets. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt
JOBS ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-parametric serve-demo check test lint faults fuzz bench docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## fit MHA-ESP on b3db with SmolLM2-135M and show what it bought (5 minutes on 2 cores with bf16 instructions)
	@echo "demo: fitting MHA-ESP and its controls on b3db with SmolLM2-135M"
	@$(BIN)/coldframe demo

demo-parametric: $(VENV)/.installed  ## PRAG: 200 invented passages into weights, then ask about them (5 minutes on 2 cores with bf16 instructions)
	@echo "demo-parametric: an adapter of SmolLM2-135M for each of 200 invented passages, beside closed book and text RAG"
	@$(BIN)/coldframe fit fact-corpus:200 --method prag --out runs/demo-parametric
	@$(BIN)/coldframe ask runs/demo-parametric --evaluate --rows 120

serve-demo: $(VENV)/.installed  ## after `make demo`: a real vLLM on the processor, the gateway before it, and a question (vLLM: 2.5 GB, once)
	@$(BIN)/python -m tests.vllm.demo

check: lint  ## lint, then the tests that are neither slow nor end to end (3 to 6 minutes on 2 cores)
	@echo "check: running the fast tests and the doctests on $(JOBS) processes"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not e2e and not vllm"

test: $(VENV)/.installed  ## import layers, all tests, the doctests (25 minutes on 2 cores)
	@echo "test: checking the import layers, then running all tests and doctests on $(JOBS) processes"
	@$(BIN)/lint-imports
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup

lint: $(VENV)/.installed  ## ruff, mypy, import layers, spelling
	@echo "lint: ruff, mypy, import layers, codespell"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/codespell src tests docs recipes benchmarks README.md CONTRIBUTING.md SECURITY.md CHANGELOG.md

faults: $(VENV)/.installed  ## kill commands at every change of the file system, fill the disk, sixteen threads (half an hour on an idle core)
	@echo "faults: every command killed and refused at up to 60 of its changes; then 10,000 answers from 16 threads"
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.everywhere 60
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.stress 625

fuzz: $(VENV)/.installed  ## inputs for all readers, to a million or for 40 minutes, with atheris where it installs
	@echo "fuzz: inputs to a million, or for 40 minutes; what fails is kept in fuzz-failures/"
	@$(PIP) --no-deps atheris || echo "fuzz: atheris does not install here; inputs are changed at random"
	@$(BIN)/python -m tests.fuzz.run 1000000 2400

bench: $(VENV)/.installed  ## speed beside peers: every benchmark, one after the other (half an hour on 2 idle cores)
	@echo "bench: measuring; results go to benchmarks/results and docs/results/speed.md"
	@$(BIN)/python -m benchmarks

docs: $(VENV)/.docs  ## build the site into site/
	@echo "docs: building the site into site/"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove the environment, the site and the tools' caches
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch goes first: what comes after is satisfied by it and cannot pull in another build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setup: making $(VENV) and installing coldframe with everything it can use (a few minutes, once)"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("coldframe needs Python 3.11 or newer; try: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) --editable '.[all,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	@echo "setup: installing what builds the site"
	@$(PIP) --editable '.[docs]'
	@touch $@
