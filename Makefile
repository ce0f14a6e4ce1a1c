# make train | test | check: each works alone on a fresh machine with Python 3.11 to 3.13 and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PRESET ?= mt10-quick
AGGREGATOR ?= pcgrad
SEED ?= 0
ARGS ?=
# one more than there are cores: many tests wait for processes of their own
JOBS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))

.PHONY: help train test coverage stress check format docs clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10
	@echo "train:    PRESET=$(PRESET) AGGREGATOR=$(AGGREGATOR) SEED=$(SEED) STEPS=(a trial of so many steps per task) ARGS=(any flag of scripts.train)"

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# an environment without a working pip is half made: begin it anew
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mtrl-surgery needs Python 3.11, 3.12 or 3.13 (metaworld with mujoco 3.3.0 goes no further); found $$(python3 --version 2>&1). Install one, or name it: make PYTHON=/path/to/python3.12"; exit 2; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "mtrl-surgery needs the venv module of $(PYTHON), which is not installed. On Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv $$(test ! -f $(VENV)/pyvenv.cfg || echo --clear) $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]'
	@touch $@

train: $(VENV)/.installed  ## train an agent (default: PCGrad on MT10, sized for two cores)
	$(BIN)/python -m scripts.train $(PRESET) --aggregator $(AGGREGATOR) --seed $(SEED) $(ARGS)

test: $(VENV)/.installed-dev  ## run the tests, one more at once than there are cores (JOBS=1: one after the other)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 8 --dist worksteal $(ARGS)

coverage: $(VENV)/.installed-dev  ## run the tests and list the lines that they never reach (takes longer)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --maxprocesses 8 --dist worksteal --cov --cov-report=term-missing:skip-covered $(ARGS)

stress: $(VENV)/.installed-dev  ## the long attacks on runs: kills, full disks, all tasks (about an hour)
	$(BIN)/python -m pytest -v -m stress $(ARGS)

check: $(VENV)/.installed-dev  ## format, lint, types, architecture, documentation site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

format: $(VENV)/.installed-dev  ## rewrite the files as `check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev  ## build the documentation site into site/, and follow its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:  ## remove the virtual environment and caches (never your runs)
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
