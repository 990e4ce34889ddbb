# Everything one does with the project. Each target makes its own .venv when there is none.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m
NEW_ENOUGH := 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; name one, as PYTHON=python3.12")'
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1
# The texts of the project are UTF-8, whatever the locale.
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help train test lint format types docs notebook ci peers clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*##/make \1\t/p' Makefile | expand -t 14

train: $(VENV)/.installed  ## train the 3-layer batch-norm network on CIFAR-10 (set TINYGRAD_CIFAR_DATA, or it is downloaded)
	$(VENV)/bin/tinygrad-cifar train --hidden 50,50 --batch-norm --lam 0.005 --schedule triangular --n-s 2250 --cycles 2 \
	    --eta-min 1e-5 --eta-max 1e-1 --batch-size 100 --split all-5000 $(ARGS)

test: $(VENV)/.installed-test  ## the test suite; it says what it skipped and why (ARGS="-k engine" picks)
	$(RUN) pytest $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff: rules and format
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: $(VENV)/.installed-dev  ## ruff: mend what it can
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

types: $(VENV)/.installed-dev $(VENV)/.installed-test  ## mypy, strict, on the package
	$(RUN) mypy

docs: $(VENV)/.installed-docs  ## the documentation in site/, strictly and offline
	$(RUN) mkdocs build --strict --quiet
	@! grep -rE '<(script|link rel="(stylesheet|preconnect)")[^>]*"https?:' site --include='*.html' || (echo "the pages load something from the web"; exit 1)

notebook: $(VENV)/.installed-docs $(VENV)/.installed-test  ## docs/tour.ipynb, from docs/tour.md; have Graphviz's dot, for the picture
	$(VENV)/bin/python docs/notebook.py

peers: $(VENV)/.installed-peers  ## PyTorch, JAX, autograd, MyGrad and tinygrad, for comparisons in tests and benchmarks

ci:  ## what continuous integration runs, in a fresh environment
	.ci/run

clean:  ## remove everything that was generated, .venv too; runs/ stays
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment without pip is one that could not be finished; one of an older Python would stay in the way.
$(VENV)/.installed: pyproject.toml
	test -x $(VENV)/bin/pip || ($(PYTHON) -c $(NEW_ENOUGH) && $(PYTHON) -m venv $(VENV))
	$(RUN) pip install --quiet --editable .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(RUN) pip install --quiet --editable '.[$*]'
	touch $@
