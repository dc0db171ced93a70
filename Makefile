# Everything starts in a fresh clone: `make demo`, `make test`. Each target says what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUNBUFFERED := 1

.PHONY: install demo test test-slurm bench bench-peers lint clean

install: $(VENV)/installed

# The reference of the dynamics contract, which tests compare with. It comes without its requirements of 1.8 GB; what it imports of them is
# the extra `reference`. See docs/dependencies.md.
REFERENCE := nvalchemi-toolkit nvidia-physicsnemo s3fs

# torch first and alone: the pinned release has a CPU wheel, and nothing after it may replace it.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" -c constraints.txt
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[local,sevennet,analysis,dev,reference]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps $(REFERENCE)
	touch $@

demo: install
	$(BIN)/python examples/cu_au/run_demo.py

# In two processes, a file of tests in one of them: many tests wait for disks, servers and other processes.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slurm and not gpu'

# A real SLURM of two nodes under /tmp. Needs root and Debian 12, whose packages it installs; without them it fails.
test-slurm: install
	$(BIN)/python -m pytest -m slurm tests/cluster

NO_BENCHMARKS := benchmarks/figures.py benchmarks/environments.py

bench: install
	@for script in $(filter-out $(NO_BENCHMARKS),$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(BIN)/python $$script --quick || exit 1; done

# Virtual environments of the peers that benchmarks compare with; see docs/benchmarks.md.
bench-peers: install
	$(BIN)/python benchmarks/environments.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info
