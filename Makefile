# One entry point. Every target makes its own virtual environment in .venv at first use.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More than two cores need: some tests wait for what others compute.
JOBS ?= 3
# The other mode is not found from a folder that holds a checkout named like the package.
EDITABLE := --config-settings editable_mode=compat

.PHONY: example test test-fast coverage check format clean

example: $(VENV)/installed
	$(BIN)/python examples/behavior_classification.py

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not timing"
	$(BIN)/python -m pytest -m timing

# Neither TensorFlow nor processes: for the time between two edits.
test-fast: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not tf and not processes and not slow"

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

# Workers that tests start are measured, too; executors, which SIGKILL ends, are not. The report comes
# also when tests have failed, and so does their status.
coverage: $(VENV)/installed-dev
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 2 --dist loadfile -m "not timing"; status=$$?; \
	$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage report; exit $$status

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q -e . $(EDITABLE)
	touch $@

$(VENV)/installed-dev: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[dev]' $(EDITABLE)
	touch $@ $(VENV)/installed
