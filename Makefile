# Needs make and Python >= 3.11, nothing else. Everything is installed into $(VENV).
#   make venv | demo | quick | test | check | bench | clean

VENV   ?= .venv
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMP  := $(VENV)/.made
BENCH  := $(VENV)/.made-bench
HOME_DEMO := examples/smart-home

# Compiled modules are kept, whatever the environment says: else every test process compiles all of them again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo demo-temper demo-naive quick test check format bench clean

help: ## show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

venv: $(STAMP) ## build the environment with the command `temper` in it

# torch first and alone, pinned, so that no other package picks a build of it.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	python=; \
	for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make venv: no Python >= 3.11 found (looked for python3, python3.13, 3.12, 3.11, python);" \
	       "install one, or name it: make venv PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ]; then \
	  echo "making $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv $(VENV) || { echo "make venv: Python has no venv module; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }; \
	fi
	@echo "installing torch (the large one), then the rest"
	@$(PIP) '$(TORCH)'
	@$(PIP) -e '.[dev,demo]'
	@touch $@
	@echo "done: $(BIN)/temper"

demo: demo-temper demo-naive ## specialise the built-in model on smart-home commands, beside the naive way
	@echo "open runs/demo/report.html"

demo-temper: $(STAMP) $(HOME_DEMO)/data/train.jsonl
	$(BIN)/temper run $(HOME_DEMO)/temper.yaml --out runs/demo

# Exit code 4 is an honest end of the naive arm: nothing it trained keeps the tolerance.
demo-naive: demo-temper
	$(BIN)/temper run $(HOME_DEMO)/naive.yaml --out runs/demo-naive || [ $$? -eq 4 ]
	$(BIN)/temper report runs/demo --with runs/demo-naive

$(HOME_DEMO)/data/train.jsonl: $(HOME_DEMO)/make_data.py | $(STAMP)
	$(BIN)/python $< --out $(@D)

quick: $(STAMP) ## the tests that take seconds
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not slow and not gpu"

test: $(STAMP) ## all tests
	$(BIN)/python -m pytest -q -n auto

check: $(STAMP) ## lint, format, types, architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/arch

format: $(STAMP) ## let ruff lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BENCH): $(STAMP)
	@$(PIP) -e '.[bench]'
	@touch $@

bench: $(BENCH) ## measure speed and memory beside a peer
	$(BIN)/python -m benchmarks.run

clean: ## remove what can be made again; runs/ stays
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find temper tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
