import hashlib
import threading
from pathlib import Path

import pytest

from mnist_pipeline.store.files import FileRecord, prefetch, record


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_record_of_a_file_on_disk_is_that_of_its_bytes(size: int, tmp_path: Path) -> None:
    data = bytes(range(251)) * (size // 251) + bytes(size % 251)
    (tmp_path / "x.parquet").write_bytes(data)
    found = record("predictions/x.parquet", 7, tmp_path / "x.parquet")
    assert found == record("predictions/x.parquet", 7, data)
    assert found == FileRecord("predictions/x.parquet", 7, size, hashlib.sha256(data).hexdigest())
    assert found.problem_with(data) is None
    assert found.problem_with(data + b"x") == f"expected {size} bytes, got more"
    if size:
        problem = found.problem_with(b"\xff" + data[1:])
        assert problem is not None
        assert problem.startswith(f"expected sha256 {found.sha256}, got ")


def test_a_file_that_is_not_there_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        record("x", 1, tmp_path / "x")


# Several at once


def test_results_come_in_order_and_a_few_are_begun_before_they_are_asked_for() -> None:
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        return number * number

    results = prefetch(square, range(30))
    assert next(results) == 0
    assert set(begun) <= set(range(8))
    assert list(results) == [number * number for number in range(1, 30)]


def test_what_is_given_up_half_way_is_not_waited_for() -> None:
    # As when the garbage collector closes it, in a thread that can wait for no other.
    gate, ended = threading.Event(), list[int]()

    def wait(number: int) -> int:
        if number:
            gate.wait(5)
            ended.append(number)
        return number

    results = prefetch(wait, range(20))
    assert next(results) == 0
    del results
    assert ended == []
    gate.set()
