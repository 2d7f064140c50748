# Every target sets up what it needs first (scripts/setup), which takes no time where nothing changed.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

SETUP := PYTHON=$(PYTHON) scripts/setup
SOURCES = $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help setup demo test test-slow test-simt test-gpu test-browser lint bench cuda gpu-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## virtual environment, packages, FFCV where it may, native ops
	@$(SETUP)

demo: setup  ## make an unlearnable data set, trap a plain trainer, learn it anyway (ARGS="--seeds 0,1,2")
	@$(BIN)/python -m pst_fast.run $(ARGS)

test: setup  ## the fast tests (ARGS="tests/ops -k linf")
	@$(BIN)/python -m pytest $(ARGS)

test-slow: setup  ## the tests that take longer
	@$(BIN)/python -m pytest -m 'slow and not gpu' $(ARGS)

test-simt: setup  ## the ops' tests on the CUDA kernels, which a host's thread runs; needs no GPU
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake -G Ninja -S . -B build/simt -DPST_FAST_PYTHON=$(CURDIR)/$(BIN)/python \
		-DPST_FAST_CUDA=0 -DPST_FAST_SIMT=ON >build/simt.log
	@$(BIN)/cmake --build build/simt --target _C_simt >>build/simt.log || { tail -n 40 build/simt.log; exit 1; }
	@PST_FAST_BACKEND=simt $(BIN)/python -m pytest $(or $(ARGS),tests/ops)

test-gpu: setup  ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m gpu $(ARGS)

test-browser:  ## open report.html in Chromium and click
	@PST_FAST_BROWSER=1 $(SETUP)
	@$(BIN)/python -m pytest -m browser $(ARGS)

lint: setup  ## ruff, mypy, clang-format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(SOURCES)

bench: setup  ## the three tables: ops, crafting, training (ARGS="ops --json ops.json")
	@$(BIN)/python -m benchmarks $(ARGS)

cuda:  ## build the CUDA library too; needs nvcc, not a GPU
	@PST_FAST_CUDA=1 $(SETUP)

gpu-check: cuda  ## tests, sanitizer and benchmarks on a GPU, in nine minutes (ARGS="--json FILE")
	@$(BIN)/python scripts/gpu_check.py $(or $(ARGS),--json gpu-check.json)

clean:  ## remove what was built; .venv and runs/ stay
	rm -rf build dist *.egg-info pst_fast/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find pst_fast tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
