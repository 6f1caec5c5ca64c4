"""A fortnight of images that arrive every day in a bucket, on a real server and worker, as its operators live it.

Every day brings 300 digits of MNIST under ids of their own, on every other day without labels: these follow two days
later, in a file beside. On one day nothing comes, and on one day somebody has scanned the negatives.
"""

import io
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mnist_pipeline import load_history, load_run
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import read_images, read_labels
from mnist_pipeline.orchestration.deployments import POOL
from mnist_pipeline.pipeline import inputs
from mnist_pipeline.settings import load_settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.opening import write_location
from tests.documents import found
from tests.engine import (
    Deployed,
    clean_environment,
    copy_project,
    running_server,
    running_worker,
    wait_until,
)
from tests.objectstore import running_store
from tests.published import hashes

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.real_data]

IMAGES = 300  # a day
DAYS = [date(2026, 1, 5) + timedelta(day) for day in range(14)]
UNLABELLED = DAYS[1::2]
NOTHING_CAME, NEGATIVES = DAYS[6], DAYS[7]
DEPLOYED_FOR_IT = "parameters: {config: scans.toml}"
# Its outputs are on the disk of the worker, as reports are there to be opened; a bucket for them is tested elsewhere.
CONFIG = """
dataset = "scans"
images = "{bucket}/inbox/{{run_date:%Y/%m/%d}}/"
id_column = "scan_id"
wait_for_data_minutes = 1

[gates.scans]
min_images = 200
min_accuracy = 0.90
"""


def key(day: date, row: int) -> str:
    return f"{day:%m%d}-{row:03d}"


class Scans(Deployed):
    """A terminal in the folder of the project, and those who bring the scans and their labels."""

    def __init__(self, project: Path, environment: dict[str, str], bucket: Location, mnist_cache: Path) -> None:
        super().__init__(project, environment)
        self.bucket = bucket
        self.mnist = inputs.fetch(load_settings(dataset="mnist", split="test", cache=mnist_cache))

    def bring_images(self, *days: date) -> None:
        """A file of images below the folder of their day: labels are in it every other day."""
        for day in days:
            rows = self._rows(day)
            images = read_images(self.mnist, rows).reshape(IMAGES, -1)
            images = 255 - images if day == NEGATIVES else images
            pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 784)
            columns = {"scan_id": self._keys(day), "pixels": pixels}
            labels = {} if day in UNLABELLED else {"label": self._labels(day)}
            self._put(f"inbox/{day:%Y/%m/%d}/scans.parquet", columns | labels)

    def bring_labels(self, *days: date) -> None:
        for day in days:
            self._put(f"labels/{day}.parquet", {"scan_id": self._keys(day)[::-1], "label": self._labels(day)[::-1]})

    def start_nights(self, *days: date) -> dict[date, str]:
        """What the schedule does, of which nobody wants to wait for the hour."""
        return {day: self.start("nightly", run_date=str(day)) for day in days}

    def start_labelled(self, *days: date) -> list[str]:
        labels = f"{self.bucket}/labels/{{run_date}}.parquet"
        return [self.start("adhoc", run_date=str(day), labels=labels) for day in days]

    def ended(self, *flow_runs: str) -> list[tuple[str, str]]:
        """Name and message of the state in which each ended."""
        ends = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        wait_until(lambda: all(self.state_of(each) in ends for each in flow_runs), what="end of flow runs")
        states = [self.ask(f"flow_runs/{each}")["state"] for each in flow_runs]
        return [(state["name"], state["message"] or "") for state in states]

    def said(self, *words: str, code: int = 0) -> str:
        """What a command prints to a person in the folder of the project."""
        done = self.command(*words)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def document(self, *words: str) -> Any:
        return found(f"{' '.join(words)} --config scans.toml")

    def nights(self) -> pd.DataFrame:
        """By date the run that counts: its run_id, and its accuracy if it has labels."""
        history = load_history(self.outputs).query("is_of_date")
        totals = history.groupby([history["run_date"].dt.strftime("%Y-%m-%d"), "run_id"], observed=True)
        sums = totals[["correct", "images"]].sum().reset_index("run_id")
        return sums.assign(accuracy=sums["correct"] / sums["images"])

    def _rows(self, day: date) -> RowRange:
        first = IMAGES * DAYS.index(day)
        return RowRange(first, first + IMAGES)

    def _keys(self, day: date) -> list[str]:
        return [key(day, row) for row in range(IMAGES)]

    def _labels(self, day: date) -> NDArray[np.uint8]:
        labels = read_labels(self.mnist, self._rows(day))
        assert labels is not None
        return labels

    def _put(self, name: str, columns: dict[str, Any]) -> None:
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file)
        write_location(self.bucket / name, file.getvalue())


@pytest.fixture
def scans(tmp_path: Path, mnist_cache: Path) -> Iterator[Scans]:
    for name in ("project", "prefect"):
        (tmp_path / name).mkdir()
    project = copy_project(tmp_path / "project")
    deployments = (project / "prefect.yaml").read_text()
    for parameters in ("parameters: {split: test}", "parameters: {}", "parameters: {}"):  # nightly, adhoc, backfill
        deployments = deployments.replace(parameters, DEPLOYED_FOR_IT, 1)
    # A night need not wait for the one before it here: there are fourteen.
    (project / "prefect.yaml").write_text(deployments.replace("limit: 1", "limit: 3", 1))
    person = clean_environment(tmp_path / "prefect") | {"PWD": str(project)}
    with running_store() as store, running_server(person) as address:
        person |= store.variables | {"PREFECT_API_URL": address}
        bucket = store.bucket()
        (project / "scans.toml").write_text(CONFIG.format(bucket=bucket))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project)
            for name, value in store.variables.items():
                patch.setenv(name, value)
            scans = Scans(project, person, bucket, mnist_cache)
            scans.said("setup")
            with running_worker(person, POOL):
                yield scans


def test_a_fortnight_of_images_that_arrive_every_day(scans: Scans) -> None:
    # The first week. On the seventh day nothing comes, on the eighth negatives.
    scans.bring_images(*DAYS[:6], NEGATIVES)
    nights = scans.start_nights(NOTHING_CAME, *DAYS[:6], NEGATIVES)

    # Whoever looks at the run without data sees what it waits for, and until when.
    waiting = nights[NOTHING_CAME]
    wait_until(lambda: scans.ask(f"flow_runs/{waiting}")["state_name"] == "WaitingForData", what="a run that waits")
    run = scans.ask(f"flow_runs/{waiting}")
    awaited = f"{scans.bucket}/inbox/{NOTHING_CAME:%Y/%m/%d} (images)"
    assert run["name"] == f"evaluate scans/test {NOTHING_CAME}"
    assert run["state"]["message"].startswith("waiting for data until 20")
    assert run["state"]["message"].endswith(f" UTC: {awaited}")

    assert {name for name, _ in scans.ended(*(nights[day] for day in DAYS[:6]))} == {"Completed"}
    ((ending, why),) = scans.ended(waiting)
    assert ending == "Failed"
    assert f"NoDataError: no data at {awaited}: expected that of {NOTHING_CAME}, got nothing there after 1" in why
    ((ending, why),) = scans.ended(nights[NEGATIVES])
    assert ending == "Failed"
    assert f"/inbox/{NEGATIVES:%Y/%m/%d}): expected white ink on black paper, got a mean pixel of 0.8" in why
    assert "black digits on white paper need --invert" in why
    assert scans.runs(str(NOTHING_CAME)) == scans.runs(str(NEGATIVES)) == []

    # Labelled or not, each night has its run; ids are those of the scans.
    accuracy = scans.nights()["accuracy"]
    assert list(accuracy.index) == list(map(str, DAYS[:6]))
    assert list(accuracy.index[accuracy.isna()]) == list(map(str, UNLABELLED[:3]))
    assert (accuracy.dropna() > 0.95).all()
    predictions = load_run(str(DAYS[1]), "scans", outputs=scans.outputs)
    assert list(predictions["image_key"][:2]) == [key(DAYS[1], 0), key(DAYS[1], 1)]
    assert "no labels: predictions without accuracy" in scans.said("show", "--config", "scans.toml", str(DAYS[1]))

    # The deadline tells a day without data from one whose data are there.
    asked = {NOTHING_CAME: 1, NEGATIVES: 2}
    missed = [scans.start("deadline", run_date=str(last), nights=count) for last, count in asked.items()]
    # Two days later the labels of the unlabelled days are there; and somebody has looked at the negatives.
    before = {name: hashes(scans.outputs / "runs" / name) for name in scans.runs()}
    scans.bring_labels(*UNLABELLED[:3])
    labelled = scans.start_labelled(*UNLABELLED[:3])
    by_hand = scans.start("adhoc", run_date=str(NEGATIVES), invert=True)
    assert {name for name, _ in scans.ended(*labelled, by_hand)} == {"Completed"}
    (_, no_data), (_, no_run) = scans.ended(*missed)
    assert f"NoDataError: nights of scans/test from {NOTHING_CAME} to {NOTHING_CAME}" in no_data
    assert f"{NOTHING_CAME}: no data at {awaited}" in no_data
    assert "RunNotFoundError: " in no_run
    assert f"{NEGATIVES}: no run that counts, and its data is there" in no_run

    # The labelled runs count, and nothing has touched the others: the same predictions, and now they are judged.
    assert {name: hashes(scans.outputs / "runs" / name) for name in before} == before
    for day in UNLABELLED[:3]:
        (unlabelled,) = (name for name in before if name.startswith(str(day)))
        assert len(scans.runs(str(day))) == 2
        counted = scans.nights().loc[str(day)]
        assert counted["run_id"] != unlabelled
        assert counted["accuracy"] > 0.95
        compared = scans.document("compare", unlabelled, str(day))
        assert (compared["changed"], compared["now"]) == (0, counted["run_id"])

    # Inverted by hand, the negatives are digits like the others. That is not what is configured: somebody has to say
    # that this run is the night.
    (inverted,) = scans.runs(str(NEGATIVES))
    assert str(NEGATIVES) not in scans.nights().index
    not_found = scans.said("show", "--config", "scans.toml", str(NEGATIVES), code=5)
    assert f"not counted: {inverted} (made by hand)" in not_found
    scans.said("accept", inverted, "--reason", "scanned as negatives", "--config", "scans.toml")
    assert scans.nights()["run_id"][str(NEGATIVES)] == inverted

    # The second week.
    scans.bring_images(*DAYS[8:])
    scans.bring_labels(*UNLABELLED[4:6])
    second = scans.start_nights(*DAYS[8:])
    assert {name for name, _ in scans.ended(*second.values())} == {"Completed"}
    scans.ended(*scans.start_labelled(*UNLABELLED[4:6]))

    # What the images are like, in the report beside the last run that passed, and in a comparison.
    newest = scans.nights()["run_id"][str(DAYS[-1])]
    report = (scans.outputs / "reports" / f"{newest}.html").read_text()
    assert "What the images are like" in report
    assert "last passed run" in report
    compared = scans.document("compare", str(DAYS[8]), str(NEGATIVES))
    ink = {when: compared[f"inputs_{when}"]["spreads"][0]["mean"] for when in ("before", "now")}
    assert ink["now"] == pytest.approx(ink["before"], rel=0.15)

    # The missing day arrives after all. A backfill of the fortnight evaluates that day and no other.
    scans.bring_images(NOTHING_CAME)
    fortnight = ["backfill", "--config", "scans.toml", "--from", str(DAYS[0]), "--to", str(DAYS[-1]), "--wait"]
    filled = scans.said(*fortnight)
    assert filled.count("started: ") == 1
    assert f"{NOTHING_CAME}: Completed" in filled
    assert "no date is missing" in scans.said(*fortnight)
    listed = scans.document("runs")["runs"]
    assert [run["run_date"] for run in listed if run["is_of_date"]] == list(map(str, DAYS))
    replaced = [run for run in listed if not run["is_of_date"]]
    assert [(run["run_date"], run["labelled"]) for run in replaced] == [
        (str(day), 0) for day in UNLABELLED if day not in (NEGATIVES, DAYS[-1])
    ]
    accuracy = scans.nights()["accuracy"]
    assert list(accuracy.index[accuracy.isna()]) == [str(NEGATIVES), str(DAYS[-1])]
    index = (scans.outputs / "reports" / "index.html").read_text()
    assert all(f">{day}<" in index for day in DAYS)
    scans.said("verify")
