import importlib
import inspect

import pytest

from tests.promises.mutants import PROJECT, Mutant, mutants, promises


@pytest.mark.parametrize("promise", promises())
def test_every_promise_has_a_mutant_that_its_test_must_see(promise: str) -> None:
    assert importlib.import_module(promise).MUTANTS


@pytest.mark.parametrize(("promise", "mutant"), list(mutants()))
def test_a_mutant_changes_code_that_is_there_and_names_a_test(promise: str, mutant: Mutant) -> None:
    source = (PROJECT / mutant.path).read_text()
    assert source.count(mutant.old) == 1, f"{mutant.path}: expected {mutant.old!r} once"
    assert mutant.new != mutant.old
    assert inspect.isfunction(getattr(importlib.import_module(promise), mutant.test))
