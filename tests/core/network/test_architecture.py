import pytest

from mnist_pipeline.core.network.architecture import (
    BOOK,
    MAX_PARAMETERS,
    Architecture,
    hidden_of,
    problems_with,
    shapes_of,
)


def test_the_architecture_of_the_book() -> None:
    assert str(BOOK) == "784-50-100-10 sigmoid"
    assert BOOK.parameters == 45_360
    assert list(BOOK.shapes.items()) == [
        *[("W1", (784, 50)), ("b1", (50,)), ("W2", (50, 100))],
        *[("b2", (100,)), ("W3", (100, 10)), ("b3", (10,))],
    ]


@pytest.mark.parametrize("hidden", [(), (1,), (200, 100), (5,) * 7, (5031,)])
def test_dense_networks_of_any_size_have_no_problems(hidden: tuple[int, ...]) -> None:
    shapes = Architecture(hidden, "relu").shapes
    assert [*problems_with(shapes)] == []
    assert hidden_of(shapes) == hidden


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        (shapes_of((784, *[5] * 8, 10)), "expected at most 8 layers, got 9"),
        ({"W123": (1, 1)}, "expected at most 8 layers, got 123"),
        (shapes_of((784, 6000, 10)), "expected at most 4,000,000 parameters, got 4,770,010"),
        (shapes_of((783, 50, 10)), "W1: expected shape (784, n), got (783, 50)"),
        (shapes_of((784, 50, 11)), "W2: expected shape (50, 10), got (50, 11); b2: expected shape (10,), got (11,)"),
        (shapes_of((784, 9)), "W1: expected shape (784, 10), got (784, 9); b1: expected shape (10,), got (9,)"),
        (shapes_of((784, 50, 10)) | {"b1": (49,)}, "b1: expected shape (50,), got (49,)"),
        (shapes_of((784, 50, 10)) | {"b1": (50, 1)}, "b1: expected shape (50,), got (50, 1)"),
        (shapes_of((784, 50, 10)) | {"W2": (51, 10)}, "W2: expected shape (50, 10), got (51, 10)"),
        (shapes_of((784, 50, 10)) | {"W1": (50, 784)}, "W1: expected shape (784, n), got (50, 784)"),
        (shapes_of((784, 0, 10)), "W1: expected shape (784, n), got (784, 0); b1: expected shape (n,), got (0,)"),
        (
            {"conv1.weight": (32, 1, 3, 3), "W1": (784, 10)},
            "missing b1; unexpected 'conv1.weight'",
        ),
        ({f"layer{number}": (1,) for number in range(20)}, "missing W1, b1; unexpected 'layer0', 'layer1', 'layer10'"),
        ({}, "missing W1, b1"),
    ],
)
def test_what_is_wrong_with_shapes_is_said(shapes: dict[str, tuple[int, ...]], problem: str) -> None:
    assert "; ".join(problems_with(shapes)).startswith(problem)


def test_the_largest_network_is_one_of_four_million_parameters() -> None:
    assert Architecture((5031,), "relu").parameters <= MAX_PARAMETERS < Architecture((5032,), "relu").parameters
