"""What a run asks of its store, counted: no more beside many earlier runs, and nothing settled is read again."""

from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest

from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs import outputs
from mnist_pipeline.store.base import Location, Store
from tests.builders import small_settings
from tests.stores import FaultyStore, MemoryStore

FIRST, LAST = date(2026, 1, 1), date(2026, 2, 1)


def calls_beside(earlier: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Each operation of a run, with the name it is about, beside so many earlier runs."""
    settings = small_settings(folder, outputs=folder / "outputs")
    store = FaultyStore(MemoryStore(settings.outputs))

    def opened(location: Location) -> Store:
        assert location == settings.outputs
        return store

    monkeypatch.setattr(outputs, "open_store", opened)
    for days in range(earlier):
        run_nightly(settings.model_copy(update={"run_date": FIRST + timedelta(days)}))
    store.calls.clear()
    run_id = run_nightly(settings.model_copy(update={"run_date": LAST, "report": True})).published.run_id
    assert not (folder / "outputs").exists()
    return Counter((operation, name.replace(run_id, "RUN_ID")) for operation, name in store.calls)


def test_a_run_asks_as_much_of_its_store_beside_many_runs_as_beside_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (calls_beside(earlier, tmp_path / str(earlier), monkeypatch) for earlier in (2, 9))
    # Whether the source files are known by the hash cache yet, and so the shards looked for, is a matter of seconds.
    counts = [
        sum(count for (_, name), count in calls.items() if not name.startswith("shards/")) for calls in (few, many)
    ]
    assert counts[0] == counts[1] > 50
    others = {name.split("/")[1] for operation, name in many if operation == "read" and name.startswith("runs/")}
    assert len(others - {"RUN_ID"}) == 1  # the run it is compared with


def test_predictions_are_read_once_before_they_are_published_and_shards_once_before_they_are_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = calls_beside(1, tmp_path, monkeypatch)
    reads = Counter({name: count for (operation, name), count in calls.items() if operation == "read"})
    staged = [count for name, count in reads.items() if name.startswith(".staging/RUN_ID/run/predictions/")]
    assert staged == [1, 1, 1]  # hashed when they are written, and once more here
    published = [count for name, count in reads.items() if name.startswith("runs/RUN_ID/predictions/")]
    assert published == [2, 2, 2]  # by the judge and by the report, which verify the checksums of pages alone
    shards = [count for name, count in reads.items() if name.startswith("shards/") and "/images/" in name]
    assert shards == [2, 2, 2]  # the second time by the report, for its example images
