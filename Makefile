# `make demo` and `make test` do all the set-up they need; everything runs in the environment of tools/env.sh.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types layers format pins clean distclean

PYTHON ?= python3
ARGS ?=
IN_ENV := source tools/env.sh &&

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'ARGS="..." is handed on, for example: make test ARGS="-k contract"'

setup: ## set everything up (system packages, .venv, ROS 2, workspace); quick when done
	@$(PYTHON) tools/setup_env.py

demo: setup ## a learned policy solves MetaWorld tasks through ROS 2 nodes
	@$(IN_ENV) python tools/demo.py $(ARGS)

test: setup ## the tests: pure, ros and sim (not slow, gpu, hardware)
	@$(IN_ENV) ALAM_TEST_REQUIRE=ros,sim python -m pytest $(ARGS)

check: lint types layers test ## everything that must pass before a change lands

lint: setup ## ruff: rules and format
	@$(IN_ENV) ruff check . && ruff format --check .

types: setup ## mypy
	@$(IN_ENV) mypy

layers: setup ## who may import whom
	@$(IN_ENV) python -m pytest -q tests/test_layers.py

format: setup ## let ruff rewrite what it can
	@$(IN_ENV) ruff check --fix . && ruff format .

pins: setup ## resolve constraints.txt anew (network; ARGS=--upgrade takes new versions)
	@$(IN_ENV) python tools/setup_pins.py $(ARGS)

clean: ## remove what was built, and caches
	@rm -rf ros2_ws/build ros2_ws/install ros2_ws/log .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

distclean: clean ## remove the virtual environment too
	@rm -rf .venv
