# The two commands of the README, and what developers run. Everything happens inside .venv.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
TESTS ?= tests
# Tests have one thread and often wait for processes of theirs: so many run at a time.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope
# As another processor computes.
AVX2 := ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=AVX2
NUMERIC := tests/kernels tests/mixers tests/layers tests/model tests/parallel tests/training tests/run tests/inference

.PHONY: help setup quickstart test test-numerics test-slurm soak lint docs bench clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt docker/install.sh
	@PYTHON=$(PYTHON) docker/install.sh $(VENV)

setup: $(VENV)/.installed  ## create .venv with everything in it

quickstart: setup  ## build the demo corpus, train and compare three mixers (8 minutes on 2 cores)
	$(BIN)/glm-scale data demo
	$(BIN)/glm-scale ladder configs/quickstart.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

test: lint  ## lint, type check and tests
	$(PYTEST) $(TESTS)
	$(AVX2) OMP_NUM_THREADS=2 $(PYTEST) -m 'numeric and not exact and not soak' $(TESTS) || [ $$? = 5 ]  # 5: none of them

test-numerics: setup  ## tests of numbers as six kinds of machines compute them (half an hour on 2 cores)
	@for processor in '' ATEN_CPU_CAPABILITY=default '$(AVX2)'; do for threads in 1 2; do \
		echo "OMP_NUM_THREADS=$$threads $$processor"; \
		env OMP_NUM_THREADS=$$threads $$processor $(PYTEST) -q $(NUMERIC) || exit 1; \
	done; done

test-slurm: setup  ## tests on a private SLURM; as root it is installed if missing
	@tests/slurm/run.sh $(BIN)/python

soak: setup  ## whole matrices and long trials (hours)
	$(BIN)/python -m pytest -m soak $(TESTS)

docs: setup  ## build the documentation into build/docs; dead links are errors
	@$(BIN)/python -c 'import material' 2>/dev/null || $(BIN)/python -m pip install -qq -c constraints.txt mkdocs-material
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q -f docs/mkdocs.yml

bench: setup  ## speed of the operators on this machine
	$(BIN)/python -m glm_kernels.bench

clean:
	rm -rf $(VENV) build dist
