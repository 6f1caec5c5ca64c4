# `make run` and `make test` do all their set-up; the other targets are for development.

PYTHON ?= python3
BIN := .venv/bin
# One more than there are cores: the tests with servers spend most of their time waiting.
TESTERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# The tests start many processes: what one has compiled the others need not compile again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check unit search slow torture mutants bench train docs clean help

help:            ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: .venv/run.stamp  ## evaluate tonight's run: fetch, shard, predict, publish
	$(BIN)/mnist-pipeline run

test: check unit  ## format, lint, types and all tests but the slow ones

check: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: .venv/dev.stamp
	# In the order of tests/conftest.py: tests that wait for servers start first.
	$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder -m "not slow and not torture"

search: .venv/dev.stamp  ## the property tests with new random examples
	$(BIN)/pytest -n $(TESTERS) --hypothesis-profile=search -m "hypothesis and not slow and not torture"

slow: .venv/dev.stamp  ## what takes long: crashes, restarts, a cluster with an object store
	$(BIN)/pytest -n $(TESTERS) -m slow

torture: .venv/dev.stamp  ## every fault at every system call of publishing, and the other long tests of the promises
	$(BIN)/pytest -n $(TESTERS) -m torture

mutants: .venv/dev.stamp  ## break the code once for each promise, and check that its test fails
	$(BIN)/python -m tests.promises.mutants

bench: .venv/dev.stamp .venv-bench/bench.stamp  ## compare with peers, per step and per batch size
	$(BIN)/python -m benchmarks.compare --peers .venv-bench/bin/python
	$(BIN)/python -m benchmarks.plot
	$(BIN)/python -m benchmarks.stages --peers .venv-bench/bin/python
	$(BIN)/python -m benchmarks.batch_rows

train: .venv/run.stamp  ## retrain the weights that ship with the package
	$(BIN)/mnist-pipeline train --direct --out mnist_pipeline/weights/mnist.safetensors

docs: .venv/dev.stamp  ## regenerate the data dictionary
	$(BIN)/python -m docs.dictionary

clean:           ## remove the environment and all caches, not the outputs
	rm -rf .venv .venv-bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ .venv/run.stamp

# The peers have a separate environment, so that neither side constrains the other's versions.
.venv-bench/bench.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@
