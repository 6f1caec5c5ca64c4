"""Whether what is to be evaluated is there, how long it is waited for, and what is said of dates without a run."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mnist_pipeline.errors import NoDataError, RunNotFoundError, UnavailableError
from mnist_pipeline.pipeline import arrival
from mnist_pipeline.pipeline.arrival import awaited, missing, wait_for_data
from mnist_pipeline.pipeline.evaluation import evaluate
from mnist_pipeline.pipeline.nightly import require_run_dates
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.settings import Settings, load_settings
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.opening import open_store, write_location
from mnist_pipeline.weights.files import encode_weights
from tests.builders import make_split, random_network
from tests.objectstore import ObjectStore, always
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.published import opened

DAY = "2026-01-31"


@pytest.fixture(params=["disk", "bucket"])
def incoming(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    location: Location = tmp_path / "in" if request.param == "disk" else request.getfixturevalue("bucket")
    return location


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each sleep was; the clock goes on by that alone."""
    slept: list[float] = []
    monkeypatch.setattr(arrival, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(arrival, "sleep", slept.append)
    return slept


def nights_of(incoming: Location, tmp_path: Path, minutes: int = 0, **more: Any) -> Settings:
    """Nights over the images of `incoming`, in a folder for each date."""
    return load_settings(
        dataset="mine",
        run_date=DAY,
        images=f"{incoming}/{{run_date:%Y/%m-%d}}",
        outputs=tmp_path / "outputs",
        cache=tmp_path / "cache",
        wait_for_data_minutes=minutes,
        **more,
    )


def test_a_location_that_holds_no_file_is_missing(incoming: Location, tmp_path: Path) -> None:
    settings = nights_of(incoming, tmp_path, labels=incoming / "labels.csv")
    assert (
        missing(settings)
        == awaited(settings)
        == {
            "images": incoming / "2026" / "01-31",
            "labels": incoming / "labels.csv",
        }
    )
    if isinstance(incoming, Path):
        (incoming / "2026" / "01-31" / "empty").mkdir(parents=True)
    write_location(incoming / "2026" / "01-31x", b"another")
    write_location(incoming / "labels.csv", b"")
    assert list(missing(settings)) == ["images"]
    open_store(incoming).write("2026/01-31/deep/a.parquet", b"1")
    assert missing(settings) == {}


def test_the_folder_of_a_data_set_is_awaited_unless_its_files_are_pinned(tmp_path: Path) -> None:
    assert awaited(load_settings(data_dir=tmp_path)) == awaited(load_settings()) == {}
    assert awaited(load_settings(dataset="mine", data_dir=tmp_path)) == {"data_dir": tmp_path}


def test_without_a_wait_a_run_fails_at_once_and_names_what_is_not_there(tmp_path: Path, seconds: list[float]) -> None:
    settings = nights_of(tmp_path / "in", tmp_path)
    with pytest.raises(
        NoDataError, match=rf"^no data at {tmp_path}/in/2026/01-31 \(images\): .* got nothing there; check the name"
    ):
        evaluate(settings)
    assert (seconds, (tmp_path / "outputs").exists()) == ([], False)


def test_what_arrives_in_time_is_waited_for(
    tmp_path: Path, seconds: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings, said = nights_of(tmp_path, tmp_path, minutes=10), list[str]()

    def sleep(length: float) -> None:
        seconds.append(length)
        if len(seconds) == 3:
            open_store(tmp_path).write("2026/01-31/a.parquet", b"1")

    monkeypatch.setattr(arrival, "sleep", sleep)
    wait_for_data(settings, on_waiting=said.append)
    assert seconds == [30.0, 30.0, 30.0]
    (line,) = said
    assert line.startswith("waiting for data until 20")
    assert line.endswith(f" UTC: {tmp_path}/2026/01-31 (images)")
    assert [each.message for each in caplog.records].count(line) == 1


def test_the_wait_ends_at_its_limit(tmp_path: Path, seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "POLL_SECONDS", 50.0)
    with pytest.raises(NoDataError, match="got nothing there after 2 minutes; check the name"):
        wait_for_data(nights_of(tmp_path / "in", tmp_path, minutes=2))
    assert seconds == [50.0, 50.0, 20.0]


def test_a_bucket_that_does_not_answer_is_asked_until_the_limit_and_is_not_empty(
    server: ObjectStore, bucket: Address, tmp_path: Path, seconds: list[float]
) -> None:
    settings = nights_of(bucket, tmp_path, minutes=1)
    with server.proxy.faults(always(lambda _, key: True, "refuse")):
        with pytest.raises(UnavailableError, match="got 403 AccessDenied"):
            wait_for_data(settings)
        assert seconds == [30.0, 30.0]
        with pytest.raises(RunNotFoundError, match=rf"{DAY}: could not look for its data \(s3://.* AccessDenied"):
            require_run_dates(settings, [settings.run_date])


def test_a_run_and_its_manifest_name_what_its_locations_were_resolved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_split(tmp_path / "in" / DAY, 5)
    (tmp_path / "mine.safetensors").write_bytes(encode_weights(random_network()))
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {
        "data_dir": "in/{run_date}",
        "cache": tmp_path / "cache",
        "outputs": tmp_path / "outputs",
        "report": False,
    }
    settings = load_settings(dataset="mine", run_date=DAY, weights="mine.safetensors", **given)
    run = run_by_id(opened(settings.outputs), evaluate(settings).run_id)
    assert run.manifest().sources == {"data_dir": f"in/{DAY}", "weights": "mine.safetensors"}
    archived = opened(settings.outputs).path(layout.weights(run.manifest().identity.weights_sha256))
    again = settings.model_copy(update={"weights": archived, "run_date": date(2026, 2, 1)})
    assert "weights" not in run_by_id(opened(settings.outputs), evaluate(again).run_id).manifest().sources


def test_a_date_without_a_run_has_no_data_or_no_run(incoming: Location, tmp_path: Path) -> None:
    settings = nights_of(incoming, tmp_path)
    dates = [date(2026, 1, 30), date(2026, 1, 31)]
    with pytest.raises(
        NoDataError,
        match=f"30: no data at {incoming}/2026/01-30 .*31: no data at .*/01-31.*; publish them .* once it is there$",
    ):
        require_run_dates(settings, dates)
    open_store(incoming).write("2026/01-31/a.parquet", b"1")
    with pytest.raises(
        RunNotFoundError,
        match=r"31: no run that counts, and its data is there; 2026-01-30: no data at .*; publish them with `[^`]*`$",
    ):
        require_run_dates(settings, dates)
