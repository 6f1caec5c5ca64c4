"""This version reads, verifies, judges and reports what earlier versions published, on disk and in a bucket."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from mnist_pipeline import load_history, load_run, run_files, tables
from mnist_pipeline.api.arguments import RUN_TABLES, VERDICT_TABLES
from mnist_pipeline.cli import app
from mnist_pipeline.core.gates import DEFAULT_GATES, Gates
from mnist_pipeline.errors import PrunedError
from mnist_pipeline.pipeline.judging import BASELINE, LAST_PASSED, judge_run
from mnist_pipeline.pipeline.planning import current_weights
from mnist_pipeline.pipeline.reporting import write_report
from mnist_pipeline.runs.layout import report
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.views import current_views
from tests.golden.outputs import ARCHIVES
from tests.objectstore import ObjectStore
from tests.objectstore import server as server
from tests.published import opened

EACH = pytest.mark.parametrize("outputs", ["1 disk", "1 bucket", "2 disk", "2 bucket"], indirect=True)
Expected = list[dict[str, Any]]


def unpacked(folder: Path, version: str) -> Path:
    with tarfile.open(ARCHIVES / f"outputs-{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=["1 disk", "1 bucket"])
def outputs(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    version, layout = str(request.param).split()
    folder = unpacked(tmp_path, version) / layout
    if layout == "disk":
        return folder
    store: ObjectStore = request.getfixturevalue("server")
    bucket = store.bucket()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            opened(bucket).store.write(str(path.relative_to(folder)), path.read_bytes())
    return bucket


@pytest.fixture
def expected(outputs: Location, tmp_path: Path) -> Expected:
    layout = "bucket" if isinstance(outputs, Address) else "disk"
    found: Expected = json.loads((tmp_path / f"{layout}.json").read_text())
    return found


def command(outputs: Location, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--outputs", str(outputs)])


def test_the_archives_are_small_enough_for_the_repository() -> None:
    assert sum(path.stat().st_size for path in ARCHIVES.glob("*.tar.xz")) < 300_000


@EACH
def test_every_run_is_read_as_published(outputs: Location, expected: Expected) -> None:
    assert [run.name.run_id for run in list_runs(opened(outputs))] == sorted(each["run_id"] for each in expected)
    for each in expected:
        if each["predictions"] is None:
            with pytest.raises(PrunedError):
                load_run(each["run_id"], outputs=str(outputs))
        else:
            frame = load_run(each["run_id"], outputs=str(outputs))
            assert "".join(map(str, frame["prediction"])) == each["predictions"]
        digits = load_run(each["run_id"], outputs=str(outputs), table="summary")
        assert digits["correct"].fillna(0).sum() == each["correct"]
    history = load_history(str(outputs))
    assert len(history) == 10 * len(expected)
    # Version 1 did not tell runs by hand from those of nights.
    counts = {each["run_id"]: each.get("counts", True) for each in expected}
    assert history.groupby("run_id", observed=True)["counts"].first().to_dict() == counts


@EACH
def test_every_byte_verifies_and_the_commands_show_the_outcomes(outputs: Location, expected: Expected) -> None:
    verified = command(outputs, "verify")
    assert verified.exit_code == 0, verified.output
    assert f"runs verified: {len(expected)}" in verified.stdout
    listed = command(outputs, "runs").stdout
    for each in expected:
        assert f"verdict: {each['outcome']} (" in command(outputs, "show", each["run_id"]).stdout
        (line,) = [line for line in listed.splitlines() if each["run_id"] in line]
        assert each["outcome"] in line.replace(",", " ").split()


def test_rebuilt_views_equal_the_published_ones(outputs: Location, expected: Expected) -> None:
    def published(name: str) -> pa.Table:
        return pq.read_table(io.BytesIO(opened(outputs).store.read(name)))

    runs, history = published("runs.parquet"), published("history.parquet")
    now = current_views(opened(outputs))  # with columns that the published ones may not have
    assert now.runs.select(runs.column_names).to_pylist() == runs.to_pylist()
    assert now.history.select(history.column_names).to_pylist() == history.to_pylist()
    assert command(outputs, "reindex").exit_code == 0
    after = tables.decode(tables.RUNS, opened(outputs).store.read("runs.parquet"), "runs.parquet")
    assert after.to_pylist() == now.runs.to_pylist()
    assert sorted(after["outcome"].to_pylist()) == sorted(each["outcome"] for each in expected)


def test_tables_of_the_first_schema_version_have_the_columns_of_this_one(outputs: Location, expected: Expected) -> None:
    failed = expected[2]["run_id"]
    for table in RUN_TABLES | VERDICT_TABLES:
        frame = load_run(failed, outputs=str(outputs), table=table)  # type: ignore[arg-type]
        assert list(frame.columns) == (RUN_TABLES | VERDICT_TABLES)[table].schema.names
        if table == tables.INPUTS.name:  # was added later
            assert frame.attrs["empty_because"] == "published before runs had the table inputs"
            assert run_files(failed, outputs=str(outputs), table="inputs") == []
            continue
        assert (frame["run_id"] == failed).all()
        assert set(frame["dataset"] + "/" + frame["split"]) == {"toy/test"}
    compared = command(outputs, "compare", expected[1]["run_id"], failed).stdout
    assert compared.endswith("input statistics: not known, earlier versions published both runs\n")
    gates = load_run(failed, outputs=str(outputs), table="gates").query("gate == 'no_certain_loss' and digit.isna()")
    differences = load_run(failed, outputs=str(outputs), table="comparison").query("digit.isna()")
    assert gates["value"].tolist() == differences["difference"].tolist()
    assert (gates["low"] < differences["low"]).all()  # of a higher confidence
    assert (gates["high"] > differences["high"]).all()


def test_runs_can_be_judged_again_and_reported(outputs: Location, expected: Expected) -> None:
    _, passed, failed, plain = (each["run_id"] for each in expected)
    again = judge_run(opened(outputs), failed, DEFAULT_GATES, gates_chosen=False)
    assert (again.outcome, {each.against for each in again.references}) == ("fail", {LAST_PASSED, BASELINE})
    other = judge_run(opened(outputs), passed, Gates(min_images=60, max_loss=1))
    assert [each.problem for each in other.references] == ["its predictions were pruned"]
    assert (other.outcome, judge_run(opened(outputs), plain, Gates(min_images=61)).outcome) == ("inconclusive", "fail")
    write_report(opened(outputs), run_by_id(opened(outputs), failed))
    page = opened(outputs).store.read(report(failed)).decode()
    assert "<title>Fail: toy/test" in page
    assert page.count('<figure class="digit') > 10  # the examples come from its shards
    assert command(outputs, "compare", passed, failed).exit_code == 0
    assert command(outputs, "prune").exit_code == 0
    assert current_weights(opened(outputs)).name != "mnist.safetensors"
