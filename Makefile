# The two commands of the README, and what developers run. Everything happens inside .venv.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
TESTS ?= tests

.PHONY: help setup quickstart test test-slurm soak lint bench clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt docker/install.sh
	@PYTHON=$(PYTHON) docker/install.sh $(VENV)

setup: $(VENV)/.installed  ## create .venv with everything in it

quickstart: setup  ## build the demo corpus, train and compare three mixers (6 minutes on 2 cores)
	$(BIN)/glm-scale data demo
	$(BIN)/glm-scale ladder configs/quickstart.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## lint, type check and tests
	$(BIN)/python -m pytest $(TESTS)

test-slurm: setup  ## tests on a private SLURM; as root it is installed if missing
	@tests/slurm/run.sh $(BIN)/python

soak: setup  ## whole matrices and long trials (hours)
	$(BIN)/python -m pytest -m soak $(TESTS)

bench: setup  ## speed of the operators on this machine
	$(BIN)/python -m glm_kernels.bench

clean:
	rm -rf $(VENV) build dist
