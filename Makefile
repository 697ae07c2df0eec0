# Set-up, demo and tests of fg_depth_ros without a ROS installation. "make help" lists the targets.
#
#   PYTHON    the Python (3.10 or newer) that the environment is made with
#   PIP_ARGS  further options for pip, such as a mirror or the index with PyTorch's builds for the CPU
#   ARGS      options of "fg-depth demo", such as ARGS="--seconds 5 --json demo.json"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
DESCRIPTION := setup.py pyproject.toml constraints.txt fg_depth_ros/__init__.py

# No message leaves this machine, and a ROS installation that happens to be sourced stays out of the
# environment, which brings its own.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifdef ROS_DISTRO
unexport LD_LIBRARY_PATH ROS_DISTRO
endif

.PHONY: help setup demo test lint format docs clean

help:
	@echo "make setup    environment in $(VENV) with pinned wheels: no root, no ROS"
	@echo "make demo     setup, then metric depth of a real stereo pair over ROS topics"
	@echo "make test     every check and test, with a summary at the end"
	@echo "make lint     only the checks: style, format, types, import order, spelling"
	@echo "make format   put the code in the project's format"
	@echo "make docs     regenerate the reference pages in docs/ and the parameter files in config/"
	@echo "make clean    remove the environment, build products and caches"

setup: $(VENV)/.ready

demo: setup
	@$(BIN)/fg-depth demo $(ARGS)

test: $(VENV)/.ready-for-tests
	@$(BIN)/python .ci/checks.py

lint: $(VENV)/.ready-for-tests
	@$(BIN)/python .ci/checks.py lint format types imports spelling

format: $(VENV)/.ready-for-tests
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.ready-for-tests
	@$(BIN)/python -m fg_depth_ros.nodes.parameter_files

clean:
	rm -rf $(VENV) build install log dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,extras): the package itself, editable, and what it needs at the pinned versions.
# Without build isolation, so that the pinned setuptools builds it.
define install
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt setuptools; \
	quiet=-q; if [ -t 1 ]; then quiet=; fi; \
	$(BIN)/python -m pip install $$quiet $(PIP_ARGS) -c constraints.txt --no-build-isolation -e ".[$(1)]"
endef

$(VENV)/.made:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make setup: $(PYTHON) is missing or older than Python 3.10;" \
	       "name a newer one: make setup PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make setup: $(PYTHON) has no module venv; install it (Debian, Ubuntu: python3-venv)" \
	       "or name another Python: make setup PYTHON=python3.11" >&2; exit 1; }
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { \
	  echo "make setup: ROS comes as wheels for Linux on x86-64 only, and this is $$(uname -sm);" \
	       "use a ROS installation and colcon (docs/install.md)" >&2; exit 1; }
	@[ -x $(BIN)/pip ] || "$(PYTHON)" -m venv --clear $(VENV)
	@# colcon would take the wheels' package.xml files for packages of the workspace
	@touch $(VENV)/COLCON_IGNORE
	@touch $@

$(VENV)/.ready: $(VENV)/.made $(DESCRIPTION)
	@echo "Installing into $(VENV): PyTorch, ROS 2 and what they need (some minutes the first time)"
	@$(call install,ros$(comma)train$(comma)data$(comma)engines)
	@touch $@

$(VENV)/.ready-for-tests: $(VENV)/.made $(DESCRIPTION)
	@echo "Installing into $(VENV): PyTorch, ROS 2, and what they and the tests need (some minutes the first time)"
	@$(call install,ros$(comma)train$(comma)data$(comma)engines$(comma)onnx$(comma)viewer$(comma)video$(comma)test$(comma)dev)
	@touch $(VENV)/.ready $@

comma := ,
