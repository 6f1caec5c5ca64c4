"""What draws at random in `make test` draws the same each time: a red test is somebody's change, never luck."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FOLDER = Path(__file__).parent
UNSEEDED = {
    "choice",
    "choices",
    "rand",
    "randint",
    "random",
    "randrange",
    "sample",
    "shuffle",
    "uniform",
    "SystemRandom",
}


def unseeded(source: str) -> Iterator[int]:
    """Lines that draw from a generator nobody has seeded: NumPy's without a seed, or Python's own shared one."""
    tree = ast.parse(source)
    shared = any(isinstance(node, ast.Import) and "random" in {name.name for name in node.names} for node in tree.body)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "random"
            and {each.name for each in node.names} & UNSEEDED
        ):
            yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, owner = node.func.attr, ast.unparse(node.func.value)
            given = [argument for argument in node.args if ast.unparse(argument) != "None"]
            if (name in ("default_rng", "Random") and not given) or (
                name in UNSEEDED and (owner in ("np.random", "numpy.random") or (owner == "random" and shared))
            ):
                yield node.lineno


def test_property_tests_draw_the_same_examples_each_time() -> None:
    if settings.get_current_profile_name() == "search":
        pytest.skip("drawn anew on purpose")
    drawn: list[int] = []

    @given(st.integers())
    def draw(number: int) -> None:
        drawn.append(number)

    draw()
    first = drawn.copy()
    drawn.clear()
    draw()
    assert first == drawn


def test_every_generator_in_the_tests_is_seeded() -> None:
    found = {path.name: list(unseeded(path.read_text())) for path in FOLDER.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "np.random.default_rng()",
        "np.random.default_rng(None)",
        "from random import choice",
        "numpy.random.rand(3)",
        "import random\nrandom.choice([1, 2])",
        "import random\nx = random.Random()",
        "np.random.shuffle(x)",
    ],
)
def test_a_generator_without_a_seed_is_found(source: str) -> None:
    assert list(unseeded(source)) == [1 + source.count("\n")]
