# Each target does its own set-up: `make demo` and `make test` work on a fresh clone with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv/peers/.ready

.PHONY: demo test check docs golden lock clean

demo: $(READY)
	$(BIN)/biovita demo

test: $(PEERS)
	$(BIN)/pytest -n 2 --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest tests/house
	$(BIN)/python tools/cli_docs.py --check

docs: $(READY)
	$(BIN)/python tools/cli_docs.py

golden: $(READY)
	$(BIN)/python tools/golden.py

lock: $(READY)
	$(BIN)/python tools/lock.py

clean:
	rm -rf .venv demo .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The locks are installed as they stand. Torch's CPU build comes first where pip finds one; elsewhere the index's build.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
$(READY): requirements.lock requirements-torch.lock requirements-torch-cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "BioVITA needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --require-hashes -r requirements-torch-cpu.lock 2>/dev/null || \
		{ echo "pip finds no CPU build of torch; taking the index's build, on Linux with CUDA (gigabytes)"; \
		$(PIP) --require-hashes -r requirements-torch.lock; }
	$(PIP) --no-build-isolation --editable .
	@touch $@

# What tests compare us with, and what shares no environment with ours.
$(PEERS): $(READY) requirements-peers.lock
	rm -rf .venv/peers
	$(PIP) --require-hashes --target .venv/peers -r requirements-peers.lock
	@touch $@
