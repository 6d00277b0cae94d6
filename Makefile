# Every target makes what it needs; nothing but Python 3.11 or newer and make has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Compiled DeepSpeed ops stay with this environment: the default cache is shared by all environments of a user.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(VENV)/torch_extensions

.PHONY: install demo bench test test-slow lint docs test-docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "hepfm needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[simulate,dev,docs]'
	@touch $@

demo: install
	$(BIN)/hepfm demo

# All speeds, one after another; given again, it continues. COMPARE=OLD.json shows what changed.
bench: install
	$(BIN)/hepfm bench all --out bench $(if $(COMPARE),--compare $(COMPARE))

test: install
	$(BIN)/python -m pytest -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in docs/_build/html. A warning, such as a broken link, is an error; the notebooks are run.
docs: install
	$(BIN)/python -m sphinx -b html -W docs docs/_build/html

# The shell and Python blocks of README and docs, at small size.
test-docs: install
	$(BIN)/python .ci/check_docs.py

clean:
	rm -rf $(VENV) build dist docs/_build
