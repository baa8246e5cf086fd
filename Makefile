# On a fresh machine: `make demo` (the main job on real input) and `make test`. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all lint docs bench clean

# One stamp for the environment: made again when the dependencies change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/mobconv sweep recipes/demo.yaml -o out/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# two processes, each with whole files: half the time, and a file's fixtures are made once
test: lint
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile

# the fast tests and the slow matrix
test-all: lint
	$(BIN)/pytest -n 2 --dist loadfile

# the site of docs/, in build/site: warnings are errors, nothing is fetched
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# speed, size and accuracy beside the vendors' tools, on an idle machine: benchmarks/RESULTS.md
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) out build
