# `make run` and `make test` do all their set-up; the other targets are for development.

SHELL := bash
.SHELLFLAGS := -o pipefail -c

PYTHON ?= python3
NEWEST ?= python3.13
VENV := .venv
BIN := $(VENV)/bin
# One more than there are cores: the tests with servers spend most of their time waiting.
TESTERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# The tests start many processes: what one has compiled the others need not compile again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check unit search newest slow torture mutants bench train docs lock clean help

help:            ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(VENV)/run.stamp  ## evaluate tonight's run: fetch, shard, predict, publish
	$(BIN)/mnist-pipeline run

test: check unit  ## format, lint, types and all tests but the slow ones

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(VENV)/dev.stamp
	# In the order of tests/conftest.py: tests that wait for servers start first.
	$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder -m "not slow and not torture"

search: $(VENV)/dev.stamp  ## the property tests with new random examples
	$(BIN)/pytest -n $(TESTERS) --hypothesis-profile=search -m "hypothesis and not slow and not torture"

newest:          ## the same tests on the newest Python that was tried, in an environment of its own
	$(MAKE) unit VENV=.venv-newest PYTHON=$(NEWEST)

slow: $(VENV)/dev.stamp  ## what takes long: crashes, restarts, a cluster with an object store
	$(BIN)/pytest -n $(TESTERS) -m slow

torture: $(VENV)/dev.stamp  ## every fault at every system call of publishing, and the other long tests of the promises
	$(BIN)/pytest -n $(TESTERS) -m torture

mutants: $(VENV)/dev.stamp  ## break the code once for each promise, and check that its test fails
	$(BIN)/python -m tests.promises.mutants

bench: $(VENV)/dev.stamp .venv-bench/bench.stamp  ## compare with peers, per step, batch size and form of the images
	$(BIN)/python -m benchmarks.compare --peers .venv-bench/bin/python
	$(BIN)/python -m benchmarks.plot
	$(BIN)/python -m benchmarks.stages --peers .venv-bench/bin/python
	$(BIN)/python -m benchmarks.batch_rows
	$(BIN)/python -m benchmarks.forms --peers .venv-bench/bin/python

train: $(VENV)/run.stamp  ## retrain the weights that ship with the package
	$(BIN)/mnist-pipeline train --direct --out mnist_pipeline/weights/mnist.safetensors

docs: $(VENV)/dev.stamp  ## regenerate the data dictionary, the reference and the JSON of the commands
	$(BIN)/python -m docs.dictionary
	$(BIN)/python -m docs.reference
	$(BIN)/python -m docs.json_shapes

# Every Python from 3.11 on and every platform, with the hashes of their wheels; the build back-end included.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--custom-compile-command 'make lock' pyproject.toml

lock: $(VENV)/dev.stamp  ## write the lock files anew, with the newest versions
	echo 'hatchling' | $(LOCK) --extra objectstore --output-file requirements.lock -
	$(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean:           ## remove the environment and all caches, not the outputs
	rm -rf .venv .venv-newest .venv-bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Exactly the files of the lock, each checked by its hash. Then this checkout, which pip does not install beside hashes.
PIP := $(BIN)/python -m pip --disable-pip-version-check
define install
	@echo 'Installing $(1) into $(VENV), which takes about a minute:'
	@$(PIP) install --require-hashes --only-binary :all: -r $(1) \
		| grep --line-buffered -oE '^(Collecting [^ ]+|Installing collected packages)' || test $${PIPESTATUS[0]} = 0
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@$(PIP) check
endef

$(VENV)/run.stamp: $(BIN)/python pyproject.toml requirements.lock
	$(call install,requirements.lock)
	touch $@

$(VENV)/dev.stamp: $(BIN)/python pyproject.toml requirements-dev.lock
	$(call install,requirements-dev.lock)
	touch $@ $(VENV)/run.stamp

# The peers have a separate environment, so that neither side constrains the other's versions.
.venv-bench/bench.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@
