"""Readers never see a mixed, short or corrupt table, however many runs are published and pruned meanwhile."""

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mnist_pipeline import load_history, load_run
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.errors import PrunedError
from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
from tests.processes import run_at_once, start_together
from tests.promises.conftest import Tried
from tests.promises.mutants import NAMED, Mutant
from tests.published import identity, opened, publish_run

IMAGES, DIGITS = 12, 10
KEPT = Retention(keep_days=1, keep_last=4)  # of nights long ago: four runs
GRACE = timedelta(seconds=5)
FIRST = date(2015, 1, 1)
PUBLISHES_OF_A_PRUNE = 3
SUMMARIES = 30  # of so many of the newest runs at each look
MAX_PAUSE_SECONDS = 0.25  # after each look; else as long as it took

Rows = list[dict[str, Any]]


def with_pandas(files: list[Path]) -> Rows:
    return as_rows(pd.read_parquet(files, page_checksum_verification=True))  # type: ignore[call-overload]


def with_duckdb(files: list[Path]) -> Rows:
    found = duckdb.connect().read_parquet(list(map(str, files)))
    # An instant of a zone would need pytz.
    names = [
        f"epoch_us({name}) as {name}" if "ZONE" in str(kind) else name
        for name, kind in zip(found.columns, found.types, strict=True)
    ]
    rows = found.select(", ".join(names))
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]


def with_polars(files: list[Path]) -> Rows:
    return pl.read_parquet(files).to_dicts()


READERS: dict[str, Callable[[list[Path]], Rows]] = {"pandas": with_pandas, "duckdb": with_duckdb, "polars": with_polars}
UNAUTHORIZED_STATUSES = (OSError, ValueError, KeyError, duckdb.Error, pl.exceptions.PolarsError, pa.ArrowException)


def require_whole_run(rows: Rows, run_id: str) -> None:
    assert [row["image_id"] for row in rows] == list(range(IMAGES)), f"{run_id}: {len(rows)} rows"
    assert {row["run_id"] for row in rows} == {run_id}


def runs_in(rows: Rows) -> int:
    """How many runs are in a table of digits; each has all ten."""
    digits: dict[str, list[int]] = {}
    for row in rows:
        digits.setdefault(row["run_id"], []).append(row["digit"])
    assert all(found == list(range(DIGITS)) for found in digits.values())
    return len(digits)


class Look:
    """A plain reader. What is published must be there, whole; a view may be refused while it is replaced."""

    def __init__(self, outputs: Path, read: Callable[[list[Path]], Rows]) -> None:
        self.outputs, self.read = outputs, read
        self.seen: dict[str, int] = {}
        self.replaced = 0
        self.random = random.Random(0)

    def __call__(self) -> None:
        rows = self.view("runs.parquet")
        self.require_no_fewer("runs", len(rows))
        kept = [row["run_id"] for row in rows if pd.isna(row["pruned_at"])]
        latest = json.loads((self.outputs / "latest.json").read_bytes())["toy/test"]["run_id"]
        for run_id in {latest, kept[-1], self.random.choice(kept)}:
            files = sorted((self.outputs / "runs" / run_id / "predictions").glob("*.parquet"))
            require_whole_run(self.read(files), run_id)
        self.require_no_fewer("history", runs_in(self.view("history.parquet")))
        summaries = sorted(self.outputs.glob("runs/*/summary.parquet"))
        self.require_no_fewer("summaries", len(summaries))
        assert runs_in(self.read(summaries[-SUMMARIES:])) == min(SUMMARIES, len(summaries))

    def view(self, name: str) -> Rows:
        """A view is replaced in one step, but these readers open a file twice: for its footer, and for its pages."""
        while True:
            try:
                return self.read([self.outputs / name])
            except UNAUTHORIZED_STATUSES:
                self.replaced += 1

    def require_no_fewer(self, what: str, count: int) -> None:
        assert count >= self.seen.get(what, 0), f"{what}: {self.seen[what]} before, {count} now"
        self.seen[what] = count


class PackageLook(Look):
    """The package's own reader, which is never refused but for a run that is pruned."""

    def __call__(self) -> None:
        frame = load_run("latest", dataset="toy", outputs=self.outputs)
        require_whole_run(as_rows(frame), frame.attrs["run_id"])
        run_id = self.random.choice([path.name for path in (self.outputs / "runs").iterdir()])
        with suppress(PrunedError):
            require_whole_run(as_rows(load_run(run_id, outputs=self.outputs)), run_id)
        assert len(load_run(run_id, outputs=self.outputs, table="confusion")) == DIGITS * DIGITS
        self.require_no_fewer("history", runs_in(as_rows(load_history(self.outputs))))


def as_rows(frame: pd.DataFrame) -> Rows:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def read_until_done(outputs: Path, who: str) -> Iterator[str]:
    """Look again and again; what was wrong, and at the end how often it looked, and how often a view was refused."""
    look = PackageLook(outputs, with_pandas) if who == "package" else Look(outputs, READERS[who])
    looks = 0
    while not (outputs / "done").exists() or not looks:
        begun, problem = time.monotonic(), None
        try:
            look()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - begun
        if problem and seconds < GRACE.total_seconds():  # whoever takes longer than the grace period was told so
            yield problem
        looks += 1
        time.sleep(min(seconds, MAX_PAUSE_SECONDS))  # they share two cores with the publisher
    yield f"{looks} {look.replaced}"


def publish_and_prune(outputs: Path, publishes: int) -> None:
    for number in range(publishes):
        publish_run(outputs, identity(str(FIRST + timedelta(days=2 + number))))
        if number % PUBLISHES_OF_A_PRUNE == 0:
            now = datetime.now(UTC)
            carry_out(opened(outputs), plan_prune(opened(outputs), KEPT, GRACE, now), now)
    (outputs / "done").touch()


def play(outputs: Path, role: str, publishes: int) -> list[str]:
    """What was wrong, and at the end what `read_until_done` counts; the publisher says nothing."""
    start_together()
    if role != "publisher":
        return list(read_until_done(outputs, role))
    try:
        publish_and_prune(outputs, publishes)
    finally:
        (outputs / "done").touch()
    return []


def require_whole_tables(outputs: Path, publishes: int, tried: Tried) -> None:
    for day in range(2):
        publish_run(outputs, identity(str(FIRST + timedelta(days=day))))
    roles = ["publisher", *READERS, "package"]
    said = run_at_once(play, [(outputs, role, publishes) for role in roles], timeout_seconds=1800)
    found = dict(zip(roles, said, strict=True))
    assert {role: lines[:-1] for role, lines in found.items()} == {role: [] for role in roles}
    assert len(list((outputs / "runs").iterdir())) == publishes + 2
    for role in roles[1:]:
        looks, replaced = found[role][-1].split()
        again = f", {replaced} times a view was replaced in between" if role != "package" else ""
        tried(int(looks), f"looks by {role} through {publishes} publishes and their prunes{again}")


def test_readers_see_whole_tables_while_runs_are_published_and_pruned(tmp_path: Path, tried: Tried) -> None:
    require_whole_tables(tmp_path, 20, tried)


@pytest.mark.torture
def test_readers_see_whole_tables_through_a_thousand_publishes(tmp_path: Path, tried: Tried) -> None:
    require_whole_tables(tmp_path, 1000, tried)
    pruned = [path for path in (tmp_path / "runs").iterdir() if not (path / "predictions").exists()]
    assert len(pruned) > 900


MUTANTS = (
    Mutant(
        "mnist_pipeline/store/disk.py",
        NAMED,
        "            path.write_bytes(b'')\n            import time\n            time.sleep(0.05)\n"
        "            path.write_bytes(data)\n            os.unlink(unfinished)\n",
        "test_readers_see_whole_tables_while_runs_are_published_and_pruned",
    ),
    Mutant(
        "mnist_pipeline/maintenance/pruning.py",
        "    update_views(outputs)  # before anything is deleted: readers go by them\n",
        "    for decision in prune.of('mark'):\n        _delete(outputs, decision.run)\n    update_views(outputs)\n",
        "test_readers_see_whole_tables_while_runs_are_published_and_pruned",
    ),
)
