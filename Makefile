# make demo [FILM=path]   colours a film; needs python3 (3.11 or 3.12) and make, installs no torch
# make test               everything but the GPU tests
# make check              what CI runs: format, lint, types, tests
# make gpu-check          what only a GPU can prove, proved where there is one
# the first that runs and that Triton's wheel has a backend for
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
FILM ?=

.PHONY: demo test check gpu-check format benchmarks clean

demo: .venv/.demo
	$(BIN)/python deploy/demo/demo.py demo $(if $(FILM),"$(FILM)")

test: .venv/.dev
	$(BIN)/python -m pytest -m "not gpu"

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not gpu"

gpu-check: .venv/.dev
	$(BIN)/python deploy/gpu_check.py

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: .venv/.dev
	$(PIP) -e ".[benchmarks]"
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv demo dist

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "reeltint: Python 3.11 or 3.12 is needed (Triton's wheel has no other);" \
	  "name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "reeltint: no venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e ".[local,demo]"
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP) -e ".[dev]"
	@touch $@ .venv/.demo
