# make demo: the whole method on the shipped model.   make test: every check and test.
# Both make .venv and install the versions of locks/; `make LOCK= test` takes the newest of all.
# On Linux a plain install of torch brings CUDA; for the small CPU build set TORCH, see "Install"
# in the README.

PYTHON ?= python3
LOCK ?= locks
TORCH ?= torch>=2.6
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# Tests and stages in workers take one thread each; the demo takes all cores, unless told a number.
ALL_THREADS := $(if $(filter undefined,$(origin OMP_NUM_THREADS)),env -u OMP_NUM_THREADS)
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export OMP_WAIT_POLICY := PASSIVE
unexport PYTHONDONTWRITEBYTECODE  # tests start many processes: each would compile all of it anew

# $(call install,FILE,EXTRAS): all of locks/FILE.txt, or what the package with EXTRAS asks for.
PIP := $(BIN)/pip install --quiet
LOCKED := $(PIP) --no-deps --no-build-isolation
torch = $(PIP) $(foreach word,$(TORCH),'$(word)')
install = $(LOCKED) --require-hashes -r $(LOCK)/build.txt && \
  $(LOCKED) --require-hashes --use-pep517 -r $(LOCK)/$(1).txt && \
  $(torch) -c $(LOCK)/torch.txt && $(LOCKED) -e .
ifeq ($(LOCK),)
install = $(torch) && $(PIP) -e '.$(2)'
endif

.PHONY: setup demo docs check-docs fix check test tests test-whole test-all bench embedded lock clean

demo: $(VENV)/.runtime
	$(ALL_THREADS) $(BIN)/mnemoscope demo -o demo

setup: $(VENV)/.development
	$(PIP) pre-commit && $(BIN)/pre-commit install

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mnemoscope needs Python 3.11 or newer; this is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml $(wildcard $(LOCK:%=%/*.txt))
	@echo "Installing PyTorch and the rest into $(VENV), once: some minutes."
	$(call install,run)
	touch $@

$(VENV)/.development: $(VENV)/.python pyproject.toml $(wildcard $(LOCK:%=%/*.txt))
	@echo "Installing PyTorch and all that the tests need into $(VENV), once: some minutes."
	$(call install,test,[docs,test])
	touch $@ $(VENV)/.runtime

docs: $(VENV)/.development
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
	$(BIN)/deptry src
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-actions action.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

test: $(VENV)/.development
	@$(MAKE) --no-print-directory --jobs 2 check tests  # a core is idle where a test waits

tests: $(VENV)/.development
	$(BIN)/pytest -m "not slow and not gpu and not whole" -n $(WORKERS) --dist worksteal

test-whole: $(VENV)/.development
	$(BIN)/pytest -m "whole and not slow and not gpu" -n $(WORKERS) --dist worksteal

test-all: check
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

bench: $(VENV)/.development
	$(PIP) -e '.[bench]'
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

embedded: $(VENV)/.runtime
	$(BIN)/python -m tools.embedded.recipe --out embedded-build --setting full

lock: $(VENV)/.python
	$(PIP) uv && PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tools.lock

clean:
	rm -rf $(VENV) build dist demo docs/reference .pytest_cache .mypy_cache .ruff_cache
