"""Whole nights whose outputs are in an object store: the same files and the same guarantees as on disk."""

import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.fs
import pytest
from obstore.fsspec import FsspecStore
from typer.testing import CliRunner, Result

from mnist_pipeline import load_history, load_predictions, load_run, run_files, tables
from mnist_pipeline.cli import app
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.errors import (
    DamagedError,
    RunConflictError,
    RunNotFoundError,
    SettingsError,
    StoreError,
    WeightsError,
)
from mnist_pipeline.orchestration.doctor import run_checks
from mnist_pipeline.pipeline.evaluation import Published, evaluate
from mnist_pipeline.pipeline.judging import judge_run
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs.layout import PROMOTIONS
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.settings import Settings, load_settings
from mnist_pipeline.store.base import Address, Location, exists
from mnist_pipeline.store.opening import open_store
from mnist_pipeline.verdicts.baselines import read_baselines, set_baseline
from mnist_pipeline.verdicts.records import newest_verdict
from mnist_pipeline.views import current_views
from mnist_pipeline.weights.files import MAX_FILE_BYTES, load_weights
from tests.builders import labels_name, random_labels, random_network, small_settings
from tests.engine import clean_environment
from tests.objectstore import KEY_ID, SECRET, TOKEN, Fault, ObjectStore, always, objects
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.processes import run_at_once
from tests.published import at, identity, on_disk, opened, publish_run, publish_with_others, staged

RUN_DATE = "2026-01-31"
VIEWS = {"history.parquet", "runs.parquet", "latest.json"}

PINNED = "2026-01-31-toy-test-ba9876543210"


@pytest.fixture
def toy(tmp_path: Path, bucket: Address) -> Settings:
    """Nights of 25 images in shards of 10, published in the bucket."""
    return small_settings(tmp_path, outputs=bucket)


def read(location: Location) -> bytes:
    return open_store(location.parent).read(location.name)


def write(location: Location, data: bytes) -> None:
    open_store(location.parent).write(location.name, data)


def delete(location: Location) -> None:
    open_store(location.parent).delete(location.name)


def kept(bucket: Address) -> dict[str, str]:
    """Everything in the bucket that never changes once it is there."""
    return {key: tag for key, tag in objects(bucket).items() if key not in VIEWS and not key.startswith("reports/")}


def table_name(path: str) -> str:
    """`predictions/part-00001` of any published path, on disk or in a store."""
    parent, name = Path(path).parent.name, Path(path).name.removesuffix(".parquet")
    stem = name[:10] if name.startswith("part-") else name.partition("-")[0]
    return f"predictions/{stem}" if parent == "predictions" else stem


def parquet_of(published: Published) -> dict[str, bytes]:
    run = run_by_id(opened(published.folder.parent.parent), published.run_id)
    return {table_name(file.path): read(run.files / file.path) for file in run.manifest().files}


def command(toy: Settings, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--outputs", str(toy.outputs)])


def night(toy: Settings, *words: str) -> list[str]:
    """The command line of a night of `toy`, for a process of its own."""
    given = {
        "--dataset": toy.dataset,
        "--run-date": str(toy.run_date),
        "--data-dir": toy.data_dir,
        "--cache": toy.cache,
        "--outputs": toy.outputs,
        "--shard-rows": toy.shard_rows,
        "--batch-rows": toy.batch_rows,
    }
    line = [sys.executable, "-m", "mnist_pipeline", "run", "--no-report"]
    return [*line, *(str(word) for pair in given.items() for word in pair), *words]


def test_labels_in_a_bucket_join_the_images_of_a_night_there(toy: Settings, bucket: Address) -> None:
    assert toy.data_dir is not None
    (on_disk(toy.data_dir) / labels_name()).unlink()
    rows = "".join(f"{image_id},{label}\n" for image_id, label in enumerate(random_labels(25)[:20]))
    write(bucket / "labels.csv", f"image_id,label\n{rows}".encode())
    first, second = evaluate(toy), evaluate(toy.model_copy(update={"labels": bucket / "labels.csv"}))
    assert (first.totals.labelled, second.totals.labelled, second.totals.images) == (0, 20, 25)
    found = load_run("latest", "toy", table="predictions", outputs=str(bucket))
    assert found["label"].tolist()[:20] == random_labels(25)[:20].tolist()


# The same nights


def test_a_night_is_the_same_in_a_store_as_on_disk(toy: Settings, bucket: Address, tmp_path: Path) -> None:
    there = run_nightly(toy.model_copy(update={"report": True}))
    here = run_nightly(toy.model_copy(update={"outputs": tmp_path / "outputs"}))
    assert there.published.new
    assert there.published.run_id == here.published.run_id
    assert parquet_of(there.published) == parquet_of(here.published)
    assert there.verdict.line == here.verdict.line
    places = {key.split("/")[0] for key in objects(bucket)}
    assert places == {"runs", "data", "verdicts", "counted", "reports", "shards", "weights", *VIEWS}


def test_only_the_manifest_is_where_runs_are_listed(toy: Settings, bucket: Address) -> None:
    published = evaluate(toy)
    assert [key for key in objects(bucket) if key.startswith("runs/")] == [f"runs/{published.run_id}/manifest.json"]
    run = run_by_id(opened(bucket), published.run_id)
    assert run.problems() == []
    assert str(published.folder) == f"{bucket}/data/{published.run_id}"


def test_the_same_night_again_changes_nothing(toy: Settings, bucket: Address) -> None:
    run_nightly(toy)
    before = kept(bucket)
    again = run_nightly(toy)
    assert not again.published.new
    assert not again.verdict.new
    assert kept(bucket) == before


def test_the_shards_of_one_night_serve_the_next(toy: Settings, server: ObjectStore, bucket: Address) -> None:
    evaluate(toy)
    built = len(server.proxy.asked("PUT", bucket / "shards"))
    evaluate(toy.model_copy(update={"run_date": "2026-01-30"}))
    assert built == 6  # three shards and their records
    assert len(server.proxy.asked("PUT", bucket / "shards")) == built


def test_the_next_night_is_compared_with_the_one_before(toy: Settings, bucket: Address) -> None:
    who = identity("2026-01-30"), identity("2026-01-31")
    for each in who:
        publish_run(bucket, each)
    judge_run(opened(bucket), who[0].run_id, Gates())
    verdict = judge_run(opened(bucket), who[1].run_id, Gates())
    assert [reference.run_id for reference in verdict.references] == [who[0].run_id]
    assert verdict.references[0].changed == 0
    assert load_run("2026-01-31", "toy", table="gates", outputs=str(bucket)).shape[0] == len(verdict.results)


@pytest.mark.slow
@pytest.mark.engine
def test_a_night_on_a_cluster_is_the_same(toy: Settings, server: ObjectStore, bucket: Address, tmp_path: Path) -> None:
    environment = clean_environment(tmp_path / "prefect") | server.variables
    done = subprocess.run(
        night(toy, "--runner", "dask", "--workers", "2"), env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (run,) = list_runs(opened(bucket))
    direct = evaluate(toy.model_copy(update={"outputs": tmp_path / "outputs"}))
    theirs = {table_name(file.path): read(run.files / file.path) for file in run.manifest().files}
    assert theirs == parquet_of(direct)
    assert not [secret for secret in (KEY_ID, SECRET, TOKEN) if secret in done.stdout + done.stderr]


# Readers


def test_pandas_duckdb_and_polars_read_the_files_of_a_run(server: ObjectStore, bucket: Address) -> None:
    run = publish_run(bucket, identity())
    expected = run.read(tables.PREDICTIONS).to_pandas()
    paths = run_files(dataset="toy", outputs=str(bucket))
    assert len(paths) == 3
    pd.testing.assert_frame_equal(load_run(dataset="toy", outputs=str(bucket)), expected)
    pd.testing.assert_frame_equal(load_predictions("toy", outputs=str(bucket)), expected)
    s3 = pyarrow.fs.S3FileSystem(endpoint_override=server.variables["AWS_ENDPOINT_URL"])
    inside = [path.removeprefix("s3://") for path in paths]
    pd.testing.assert_frame_equal(
        pd.concat(
            [pd.read_parquet(path, filesystem=s3, page_checksum_verification=True) for path in inside],
            ignore_index=True,
        ),
        expected,
    )
    rows = expected["prediction"].tolist()
    assert pl.scan_parquet(paths).collect()["prediction"].to_list() == rows
    with duckdb.connect() as connection:
        connection.register_filesystem(FsspecStore("s3", client_options={"allow_http": True}))
        found = connection.execute("SELECT prediction FROM read_parquet(?) ORDER BY image_id", [paths]).fetchall()
        assert [row for (row,) in found] == rows
        history = connection.execute("SELECT count(*) FROM read_parquet(?)", [f"{bucket}/history.parquet"]).fetchone()
    assert history == (10,)
    assert load_history(str(bucket)).shape[0] == 10


def test_the_files_of_a_run_on_disk_are_named_too(tmp_path: Path) -> None:
    run = publish_run(tmp_path, identity())
    names = run_files(dataset="toy", table="summary", outputs=tmp_path)
    assert names == [str(tmp_path / "runs" / run.name.run_id / "summary.parquet")]


def test_the_commands_that_look_at_runs_take_an_address(toy: Settings, bucket: Address) -> None:
    published = run_nightly(toy).published
    of_toy = ("--dataset", "toy")
    for words, said in {
        ("runs",): published.run_id,
        ("verify",): "runs verified: 1",
        ("show", RUN_DATE, *of_toy): f"files: {bucket}/data/{published.run_id}",
        ("report", *of_toy): f"report: {bucket}/reports/{published.run_id}.html",
        ("reindex",): "runs indexed: 1",
        ("baseline", "set", published.run_id): published.run_id,
        ("baseline", "show"): published.run_id,
        ("compare", published.run_id, published.run_id): published.run_id,
    }.items():
        done = command(toy, *words)
        assert done.exit_code == 0, (words, done.output, done.exception)
        assert said in done.stdout.replace("\n", ""), words
    assert read_baselines(opened(bucket)) == {"toy/test": published.run_id}


def test_the_doctor_looks_at_the_place_of_the_outputs(toy: Settings, server: ObjectStore, bucket: Address) -> None:
    good = [(finding.what, finding.healthy) for finding in run_checks.check_writable(bucket)]
    assert good == [("outputs", True)]
    assert objects(bucket) == {}
    with server.proxy.faults(always(lambda method, _: method == "PUT", "refuse")):
        (finding,) = run_checks.check_writable(bucket)
    assert not finding.healthy
    assert "403 AccessDenied" in finding.found


def test_the_doctor_warns_of_a_store_that_replaces_what_it_was_asked_to_keep(
    server: ObjectStore, bucket: Address
) -> None:
    with server.proxy.faults(always(lambda method, _: method == "PUT", "ignore conditions")):
        (finding,) = run_checks.check_writable(bucket)
    assert not finding.healthy
    assert "replaces objects that it was asked not to replace" in finding.found
    assert objects(bucket) == {}


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    address = f"s3://{KEY_ID}:hunter2@nights/a"
    collapsed = ["--outputs", str(Path(address))]
    for given, variables in (["--outputs", address], {}), (collapsed, {}), ([], {"MNIST_PIPELINE_OUTPUTS": address}):
        done = CliRunner().invoke(app, ["--verbose", "runs", *given], env=variables)
        assert done.exit_code == 2, done.stderr
        assert "outputs: expected a folder, or SCHEME://BUCKET/PREFIX" in done.stderr
        assert "hunter2" not in done.output
        assert KEY_ID not in done.output


@pytest.mark.parametrize("address", ["s3:/nights/a", Path("s3://nights/a")])
def test_an_address_that_has_lost_a_slash_is_no_folder(address: str | Path) -> None:
    with pytest.raises(SettingsError, match="outputs: expected a folder, or SCHEME://BUCKET/PREFIX"):
        load_run(outputs=address)


# Killed, refused, disturbed


def test_nothing_is_visible_of_a_night_that_is_killed_and_the_next_reuses_its_prediction_files(
    toy: Settings, server: ObjectStore, bucket: Address
) -> None:
    process: subprocess.Popen[bytes]

    def kill_at_the_last_prediction_file(method: str, key: str) -> Fault | None:
        if method == "PUT" and "/records/part-00002" in key and ".staging" in key:
            process.send_signal(signal.SIGKILL)
            return "lose the request"
        return None

    with server.proxy.faults(kill_at_the_last_prediction_file):
        process = subprocess.Popen(night(toy, "--direct", "--workers", "1"), env={**os.environ})
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert list_runs(opened(bucket)) == []
    assert current_views(opened(bucket)).history.num_rows == 0
    before = len(server.proxy.asked("PUT", bucket / "data"))
    evaluate(toy)
    again = [key for key in server.proxy.asked("PUT", bucket / "data")[before:] if "/predictions/" in key]
    assert [key.rpartition("/")[2][:10] for key in again] == ["part-00002"]
    assert [key for key in objects(bucket) if key.startswith(".staging")] == []


def commits(method: str, key: str) -> bool:
    return method == "PUT" and key.endswith("/manifest.json")


def test_a_commit_whose_answer_is_lost_is_a_commit(toy: Settings, server: ObjectStore, bucket: Address) -> None:
    with server.proxy.faults(always(commits, "lose the answer")):
        assert evaluate(toy).new
    (run,) = list_runs(opened(bucket))
    assert run.problems() == []
    assert load_history(str(bucket))["run_id"].nunique() == 1


@pytest.mark.parametrize("fault", ["refuse", "busy", "lose the request"])
def test_a_commit_that_is_refused_publishes_nothing_and_the_next_attempt_does(
    fault: Fault, toy: Settings, server: ObjectStore, bucket: Address
) -> None:
    with server.proxy.faults(always(commits, fault)), pytest.raises(StoreError, match=r"manifest\.json: expected"):
        evaluate(toy)
    assert list_runs(opened(bucket)) == []
    with pytest.raises(RunNotFoundError, match=f"{bucket}: expected published runs, got none"):
        load_history(str(bucket))
    assert evaluate(toy).new


def test_a_store_that_is_busy_now_and_then_is_no_failure(
    toy: Settings, server: ObjectStore, bucket: Address, tmp_path: Path
) -> None:
    chance = random.Random(1)

    def now_and_then(_method: str, _key: str) -> Fault | None:
        return chance.choice(["busy", "lose the answer", "lose the request"]) if chance.random() < 0.1 else None

    with server.proxy.faults(now_and_then):
        there = run_nightly(toy)
    here = run_nightly(toy.model_copy(update={"outputs": tmp_path / "outputs"}))
    assert parquet_of(there.published) == parquet_of(here.published)
    assert run_by_id(opened(bucket), there.published.run_id).problems() == []
    assert (
        newest_verdict(opened(bucket), run_by_id(opened(bucket), there.published.run_id).manifest().content) is not None
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (always(lambda *_: True, "refuse"), "403"),
        (always(lambda method, _: method == "PUT", "refuse"), "403 AccessDenied"),
        (always(lambda *_: True, "lose the request"), "no answer"),
    ],
)
def test_a_store_that_refuses_ends_the_night_with_a_message_and_no_key(
    rule: Any, said: str, toy: Settings, server: ObjectStore, bucket: Address
) -> None:
    with server.proxy.faults(rule):
        done = subprocess.run(
            [*night(toy, "--direct")[:3], "--verbose", *night(toy, "--direct")[3:]],
            env={**os.environ},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 5, done.stderr
    assert f"got {said}" in done.stderr
    assert "check bucket, credentials and network" in done.stderr
    assert not [secret for secret in (KEY_ID, SECRET, TOKEN) if secret in done.stdout + done.stderr]
    assert objects(bucket) == {}


def test_a_bucket_that_does_not_exist_ends_the_night(toy: Settings) -> None:
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/.*: .* got 404 NoSuchBucket"):
        evaluate(toy.model_copy(update={"outputs": Address("s3://no-such-bucket/prefix")}))


def test_no_key_gets_into_what_is_stored(toy: Settings, bucket: Address) -> None:
    run_nightly(toy)
    for key in objects(bucket):
        data = read(bucket / key)
        assert not [secret for secret in (KEY_ID, SECRET, TOKEN) if secret.encode() in data], key


# At the same time


def test_of_many_committers_of_one_night_one_publishes_and_all_succeed(server: ObjectStore, bucket: Address) -> None:
    said = run_at_once(publish_with_others, [(bucket, RUN_DATE, at(day)) for day in range(1, 7)])
    assert sorted(said) == [False] * 5 + [True]
    (run,) = list_runs(opened(bucket))
    assert run.problems() == []
    assert [key for key in objects(bucket) if key.startswith(".staging")] == []


def test_publishers_of_several_nights_lose_no_row_of_the_history(server: ObjectStore, bucket: Address) -> None:
    nights = [f"2026-01-{day:02d}" for day in range(20, 26)]
    said = run_at_once(publish_with_others, [(bucket, night, at(1)) for night in nights])
    assert said == [True] * 6
    stored = tables.decode(tables.HISTORY, read(bucket / "history.parquet"), "history")
    assert stored.num_rows == 60
    assert nights[-1].encode() in read(bucket / "latest.json")


def test_baselines_that_are_set_at_the_same_time_are_all_kept(server: ObjectStore, bucket: Address) -> None:
    together = Barrier(6)

    def pin(number: int) -> None:
        outputs = opened(bucket)
        together.wait(60)
        set_baseline(outputs, f"data{number}", "test", PINNED)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(pin, range(6)))
    assert read_baselines(opened(bucket)) == {f"data{number}/test": PINNED for number in range(6)}
    set_baseline(opened(bucket), "data3", "test", None)
    assert "data3/test" not in read_baselines(opened(bucket))


# Conflicts and damage


def test_other_predictions_for_the_same_run_are_a_conflict_that_names_both(
    server: ObjectStore, bucket: Address
) -> None:
    who = identity()
    run = publish_run(bucket, who)
    before = kept(bucket)
    with staged(bucket, who, seed=1) as (staging, manifest), pytest.raises(RunConflictError) as caught:
        commit(opened(bucket), staging, manifest)
    assert f"{bucket}/data/{who.run_id}/predictions/part-00000-" in str(caught.value)
    (conflict,) = (key for key in objects(bucket) if key.startswith(".staging/conflict-"))
    kept_in = str(bucket / conflict).removesuffix("/manifest.json")
    assert f"kept in {kept_in};" in str(caught.value)
    other = Manifest.from_bytes(read(bucket / conflict), "other")
    for file in other.files:
        assert file.problem_with(read(run.files / file.path)) is None
    assert {key: tag for key, tag in kept(bucket).items() if key in before} == before
    assert run.problems() == []
    assert [key for key in objects(bucket) if "/records/" in key] == []  # the next attempt computes for itself


def test_an_attempt_that_was_never_published_is_no_problem_of_the_run(bucket: Address, server: ObjectStore) -> None:
    who = identity()
    with staged(bucket, who, seed=1):
        pass
    run = publish_run(bucket, who)
    assert run.problems() == []
    assert run.read(tables.PREDICTIONS).num_rows == who.images


def test_a_published_object_that_is_altered_is_found(bucket: Address, server: ObjectStore) -> None:
    run = publish_run(bucket, identity())
    (first_file, *_) = run.paths(tables.PREDICTIONS)
    assert isinstance(first_file, Address)
    data = bytearray(read(first_file))
    data[len(data) // 2] ^= 1
    write(first_file, bytes(data))
    (problem,) = run.problems()
    assert problem.startswith(f"{first_file}: expected sha256")
    with pytest.raises(DamagedError, match=str(first_file)):
        load_run(dataset="toy", outputs=str(bucket))
    delete(first_file)
    assert run.problems() == [f"{first_file}: expected {len(data)} bytes, got no file"]


def test_a_shard_that_is_altered_or_gone_is_rebuilt(toy: Settings, bucket: Address) -> None:
    evaluate(toy)
    before = kept(bucket)
    shards = sorted(key for key in before if key.startswith("shards/") and key.endswith(".parquet"))
    write(bucket / shards[0], b"other")
    delete(bucket / shards[1])
    evaluate(toy.model_copy(update={"run_date": "2026-01-30"}))
    assert {key: tag for key, tag in kept(bucket).items() if key in before} == before


def test_a_busy_store_is_not_taken_for_damage(server: ObjectStore, bucket: Address) -> None:
    run = publish_run(bucket, identity())
    with server.proxy.faults(always(lambda method, key: method == "GET" and "/data/" in key, "busy")):
        for ask in (run.problems, lambda: run.read(tables.SUMMARY)):
            with pytest.raises(StoreError, match="got 503 SlowDown"):
                ask()
    assert run.problems() == []


# Weights


def test_promoted_weights_are_kept_in_the_store_and_serve_the_nights_from_then_on(
    toy: Settings, bucket: Address, tmp_path: Path
) -> None:
    archived = on_disk(opened(tmp_path).archive_weights(random_network(1)))
    before = evaluate(toy)
    done = CliRunner().invoke(
        app,
        [
            "promote",
            str(archived),
            "--force",
            "--dataset",
            "toy",
            "--data-dir",
            str(toy.data_dir),
            "--outputs",
            str(bucket),
        ],
    )
    assert exists(opened(bucket).store, f"{PROMOTIONS}/000001.json"), done.output
    assert evaluate(toy).identity.weights_sha256 == archived.stem
    (name,) = {*opened(bucket).store.children("weights")} - {f"{before.identity.weights_sha256}.safetensors"}
    there = bucket / "weights" / name  # as `mnist-pipeline train` leaves them
    again = load_settings(weights=str(there), dataset="toy", data_dir=toy.data_dir, outputs=bucket, shard_rows=7)
    assert evaluate(again).identity.weights_sha256 == archived.stem


def test_weights_in_a_store_that_are_too_large_are_not_read_to_their_end(server: ObjectStore, bucket: Address) -> None:
    write(bucket / "w.safetensors", bytes(MAX_FILE_BYTES + 4096))
    with pytest.raises(WeightsError, match=f"expected at most {MAX_FILE_BYTES} bytes, got more"):
        load_weights(bucket / "w.safetensors")


def test_what_somebody_left_among_the_runs_is_no_run(bucket: Address, server: ObjectStore) -> None:
    who = identity()
    write(bucket / "runs" / who.run_id / "notes.txt", b"")
    assert list_runs(opened(bucket)) == []
    with pytest.raises(RunNotFoundError):
        run_by_id(opened(bucket), who.run_id)
    assert publish_run(bucket, who).problems() == []
