# make demo: the whole method on the shipped model.   make test: every check and test.
# Both make .venv and install what they need. On Linux a plain install of torch brings CUDA;
# for the small CPU build set TORCH, see "Install" in the README.

PYTHON ?= python3
TORCH ?= torch>=2.6
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export OMP_WAIT_POLICY := PASSIVE
unexport PYTHONDONTWRITEBYTECODE  # tests start many processes: each would compile all of it anew

.PHONY: setup demo docs check-docs fix check test tests test-all bench embedded clean

demo: $(VENV)/.runtime
	env -u OMP_NUM_THREADS $(BIN)/mnemoscope demo -o demo

setup: $(VENV)/.development
	$(BIN)/pip install --quiet pre-commit && $(BIN)/pre-commit install

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mnemoscope needs Python 3.11 or newer; this is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.torch: $(VENV)/.python
	@echo "Installing PyTorch and the rest into $(VENV), once: some minutes."
	$(BIN)/pip install --quiet $(foreach word,$(TORCH),'$(word)')
	touch $@

$(VENV)/.runtime: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.development: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet -e '.[test]'
	touch $@ $(VENV)/.runtime

$(VENV)/.documents: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet -e '.[docs]'
	touch $@ $(VENV)/.runtime

docs: $(VENV)/.documents
	$(BIN)/python -m tools.reference docs/reference
	$(BIN)/zensical build --clean --strict
	$(BIN)/python -m tools.site build/site README.md
	@echo "Open build/site/index.html"

check-docs: docs $(VENV)/.development
	$(BIN)/python -m tools.site_in_browser build/site

fix: $(VENV)/.development
	$(BIN)/ruff check --fix src tests benchmarks experiments tools examples
	$(BIN)/ruff format src tests benchmarks experiments tools examples

check: $(VENV)/.development
	$(BIN)/ruff check src tests benchmarks experiments tools examples
	$(BIN)/ruff format --check src tests benchmarks experiments tools examples
	$(BIN)/mypy

test: $(VENV)/.development
	@$(MAKE) --no-print-directory --jobs 2 check tests  # a core is idle where a test waits

tests: $(VENV)/.development
	$(BIN)/pytest -m "not slow and not gpu" -n $(WORKERS) --dist worksteal

test-all: check
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

bench: $(VENV)/.development
	$(BIN)/pip install --quiet -e '.[bench]'
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

embedded: $(VENV)/.runtime
	$(BIN)/python -m tools.embedded.recipe --out embedded-build --setting full

clean:
	rm -rf $(VENV) build dist demo docs/reference .pytest_cache .mypy_cache .ruff_cache
