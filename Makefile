# Short names for what the scripts and tools do; nothing is decided here. A bare machine needs no make: see launch/.

.DEFAULT_GOAL := help
.PHONY: help setup fast check test soak bench hooks
PYTHON := .venv/bin/python

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## the virtual environment, or nothing when it is ready
	./launch/environment.sh

fast: $(PYTHON) ## the tests that need no torch; about 10 s
	$(PYTHON) -m pytest -q -m fast

check: ## linters, types, and every test that starts no process or engine; under 3 minutes
	./launch/test.sh --numprocesses=logical --dist=loadscope -m "not slow"

test: ## all of it, as CI runs it; about 25 minutes on two cores
	./launch/test.sh

soak: $(PYTHON) ## what the suite leaves out for its time: twenty kills of a run, half an hour, and every tensor of a publish
	$(PYTHON) -m pytest -q -s -m soak tests

bench: $(PYTHON) ## the measurements of benchmarks/, minutes; nothing is asserted
	$(PYTHON) benchmarks/routing.py
	$(PYTHON) benchmarks/routing.py --vary
	$(PYTHON) benchmarks/geometries.py
	$(PYTHON) benchmarks/training.py
	$(PYTHON) benchmarks/training.py --images
	$(PYTHON) benchmarks/credit.py
	$(PYTHON) benchmarks/step.py --without-trl
	$(PYTHON) benchmarks/search.py
	$(PYTHON) benchmarks/planner.py
	$(PYTHON) benchmarks/planner.py --memory tiny

hooks: $(PYTHON) ## the checks of .pre-commit-config.yaml before every commit
	$(PYTHON) -m pre_commit install

$(PYTHON):
	./launch/environment.sh
