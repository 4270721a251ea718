PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/digits

.PHONY: demo test test-slow lint docs clean

demo: $(VENV)/.demo
	$(BIN)/python scripts/train.py --config=configs/digits.py --workdir=$(RUN)
	$(BIN)/python scripts/evaluate.py --workdir=$(RUN)

PYTEST := $(BIN)/python -m pytest -n 3 --no-loadscope-reorder
# Tests of one group share a process (pytest-xdist 3.8 does so with pytest before 9.2 alone).
SLOW := $(PYTEST) -m slow --dist loadgroup --durations=15

test: $(VENV)/.test
	VAEJAX_SUITE=numerics $(PYTEST) --dist load --durations=5
	VAEJAX_SUITE=plumbing $(PYTEST) --dist loadfile --durations=10

test-slow: $(VENV)/.test
	VAEJAX_SUITE=numerics VAEJAX_SHAPES=unchecked $(SLOW)
	VAEJAX_SUITE=plumbing VAEJAX_SHAPES=unchecked $(SLOW)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check vaejax scripts tests configs benchmarks
	$(BIN)/mypy

$(VENV)/.demo: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.demo

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(VENV)/.docs: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build *.egg-info
