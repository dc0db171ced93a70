# Everything starts in a fresh clone: `make demo`, `make test`. Each target says what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUNBUFFERED := 1

.PHONY: install demo test test-slurm bench lint clean

install: $(VENV)/installed

# torch first and alone: the pinned release has a CPU wheel, and nothing after it may replace it.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" -c constraints.txt
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[local,sevennet,analysis,dev]'
	touch $@

demo: install
	$(BIN)/python examples/cu_au/run_demo.py

test: install
	$(BIN)/python -m pytest -m 'not slurm and not gpu'

# A real SLURM of two nodes under /tmp. Needs root and Debian 12, whose packages it installs; without them it fails.
test-slurm: install
	$(BIN)/python -m pytest -m slurm tests/cluster

bench: install
	@for script in $(filter-out benchmarks/figures.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(BIN)/python $$script --quick || exit 1; done

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info
