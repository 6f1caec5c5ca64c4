"""What a report gathers, from small runs; tests/report tests how the page looks."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mnist_pipeline import tables
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.errors import DamagedError, OutputsError
from mnist_pipeline.pipeline import reporting
from mnist_pipeline.pipeline.judging import BASELINE, LAST_PASSED, judge_run
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.pipeline.reporting import try_report, write_report
from mnist_pipeline.report import page as page_module
from mnist_pipeline.report.page import Page
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.runs.run import Run
from mnist_pipeline.runs.summary import read_inputs
from mnist_pipeline.settings import load_settings
from mnist_pipeline.verdicts.baselines import set_baseline
from mnist_pipeline.weights.files import encode_weights
from tests.builders import make_split, random_images, random_network, small_settings
from tests.published import flip_bit, identity, left_over, on_disk, opened, publish_run

ROWS = 60


def night(tmp_path: Path, run_date: str = "2026-01-31", seed: int = 0, rows: int = ROWS, **changes: Any) -> Run:
    """A run of the weights of that seed, judged; its report if the settings say so."""
    weights = tmp_path / f"{seed}.safetensors"
    weights.write_bytes(encode_weights(random_network(seed)))
    settings = small_settings(tmp_path, rows, **({"run_date": run_date, "weights": weights} | changes))
    return run_by_id(opened(settings.outputs), run_nightly(settings).published.run_id)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    """What is handed to the page."""
    seen: list[Page] = []
    render = page_module.render_page

    def rendered(page: Page) -> str:
        seen.append(page)
        return render(page)

    monkeypatch.setattr(page_module, "render_page", rendered)
    return seen


def frame(run: Run) -> pd.DataFrame:
    found: pd.DataFrame = run.read(tables.PREDICTIONS).to_pandas()
    return found


def outputs_of(run: Run) -> Path:
    return on_disk(run.folder).parents[1]


# When it is written


@pytest.mark.parametrize("report", [True, False])
def test_a_night_writes_its_report_if_the_settings_want_one(report: bool, tmp_path: Path) -> None:
    run = night(tmp_path, report=report)
    page = outputs_of(run) / layout.report(run.name.run_id)
    assert page.is_file() == report
    if report:
        assert run.name.run_id in on_disk(page).read_text()
        assert "<title>None: toy/test" in on_disk(page).read_text()
    assert left_over(outputs_of(run)) == []


def test_a_report_that_fails_is_a_warning_and_the_night_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Page:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(reporting, "_page", broken)
    with caplog.at_level(logging.WARNING):
        run = night(tmp_path, report=True)
    assert run.problems() == []
    assert f"the report of {run.name.run_id} could not be written" in caplog.text
    assert "planted" in caplog.text
    assert not (outputs_of(run) / layout.report(run.name.run_id)).exists()


def test_a_report_that_cannot_be_written_is_an_outputs_error(tmp_path: Path) -> None:
    run = night(tmp_path)
    shutil.rmtree(outputs_of(run) / "reports")
    (outputs_of(run) / "reports").write_text("in the way")
    with pytest.raises(OutputsError, match=rf"cannot write .*{run.name.run_id}\.html: .*then run again"):
        write_report(opened(outputs_of(run)), run)


def test_no_report_is_written_of_a_damaged_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = night(tmp_path)
    flip_bit(run.folder / "predictions" / "part-00001.parquet")
    with pytest.raises(DamagedError, match=r"part-00001\.parquet: expected sha256"):
        write_report(opened(outputs_of(run)), run)
    with caplog.at_level(logging.WARNING):
        try_report(opened(outputs_of(run)), run.name.run_id)
    assert "could not be written" in caplog.text
    assert "Traceback" not in caplog.text  # nobody need look for a bug
    assert not (outputs_of(run) / layout.report(run.name.run_id)).exists()


def test_the_images_of_run_and_references_are_shown_as_published(
    tmp_path: Path, pages: list[Page], caplog: pytest.LogCaptureFixture
) -> None:
    before = night(tmp_path, "2026-01-30")
    run = night(tmp_path, seed=1, report=True)
    assert pages[-1].inputs == {"this run": read_inputs(run), "earlier run": read_inputs(before)}
    assert [found.images for found in pages[-1].inputs.values() if found] == [ROWS, ROWS]
    flip_bit(before.folder / "inputs.parquet")
    write_report(opened(outputs_of(run)), run)
    assert pages[-1].inputs == {"this run": read_inputs(run), "earlier run": None}
    assert f"what the images of run {before.name.run_id} are like cannot be read: " in caplog.text


def test_a_report_written_again_is_the_same_bytes(tmp_path: Path) -> None:
    night(tmp_path, "2026-01-30")
    run = night(tmp_path, seed=1)
    first = on_disk(write_report(opened(outputs_of(run)), run)).read_bytes()
    later = night(tmp_path, "2026-02-01").name.run_id  # is no part of it, but for the link to it
    after = on_disk(write_report(opened(outputs_of(run)), run))
    link = f'<a rel="next" href="2026-02.html#{later}">2026-02-01, the next night →</a>\n'
    assert after.read_text() == first.decode().replace("</nav>", f"{link}</nav>", 1)


def test_the_report_of_a_run_that_was_never_judged_says_so(tmp_path: Path, pages: list[Page]) -> None:
    run = publish_run(tmp_path, identity())
    text = on_disk(write_report(opened(tmp_path), run)).read_text()
    (page,) = pages
    assert (page.outcome, page.results, page.references, page.flips) == (None, (), (), ())
    assert page.provenance["verdict"] == "none"
    assert "This run has not been judged." in text


# What it shows


def test_the_most_confident_mistakes_come_first_and_are_shown_with_their_images(
    tmp_path: Path, pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MAX_EXAMPLES", 40)
    run = night(tmp_path)
    write_report(opened(outputs_of(run)), run)
    (page,) = pages
    wrong = frame(run).query("~correct").sort_values(["confidence", "image_id"], ascending=[False, True])
    assert page.mistakes_total == len(wrong) > reporting.MAX_EXAMPLES == 40
    assert [item.image_id for item in page.mistakes] == wrong["image_id"].tolist()[: reporting.MAX_EXAMPLES]
    for item, (_, row) in zip(page.mistakes, wrong.iterrows(), strict=False):
        assert (item.label, item.prediction) == (row["label"], row["prediction"])
        assert item.confidence == pytest.approx(row["confidence"])
        assert item.pixels is not None
        np.testing.assert_array_equal(item.pixels, random_images(ROWS)[item.image_id])


@pytest.mark.parametrize("most", [40, 5])
def test_flips_are_shown_lost_ones_first_and_the_most_confident_of_each_kind_first(
    most: int, tmp_path: Path, pages: list[Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "MAX_EXAMPLES", most)
    before = night(tmp_path, "2026-01-30")
    run = night(tmp_path, seed=3)
    write_report(opened(outputs_of(run)), run)
    old, now = frame(before), frame(run)
    flips = now.assign(before=old["prediction"])[now["prediction"] != old["prediction"]]
    kind = np.where(flips["before"] == flips["label"], 0, np.where(flips["correct"], 2, 1))
    flips = flips.assign(kind=kind).sort_values(["kind", "confidence", "image_id"], ascending=[True, False, True])
    (page,) = pages
    assert page.flips_total == len(flips) > 5
    assert [item.image_id for item in page.flips] == flips["image_id"].tolist()[:most]
    assert [item.before for item in page.flips] == flips["before"].tolist()[:most]
    names = ["lost", "still wrong", "gained"]
    assert [item.direction for item in page.flips] == [names[number] for number in flips["kind"]][:most]


def test_flips_are_those_against_the_first_reference_over_the_same_images(tmp_path: Path, pages: list[Page]) -> None:
    pinned = night(tmp_path, "2026-01-29", seed=3)
    make_split(tmp_path / "other", ROWS, seed=8)
    night(tmp_path, "2026-01-30", data_dir=tmp_path / "other", gates={"toy": {"min_images": 1}})  # over other images
    set_baseline(opened(outputs_of(pinned)), "toy", "test", pinned.name.run_id)
    run = night(tmp_path)
    text = on_disk(write_report(opened(outputs_of(run)), run)).read_text()
    (page,) = pages
    assert [(reference.against, reference.changed is None) for reference in page.references] == [
        (LAST_PASSED, True),
        (BASELINE, False),
    ]
    assert page.flips_total == page.references[1].changed
    changed = frame(pinned)["prediction"] != frame(run)["prediction"]
    assert {item.image_id for item in page.flips} <= set(frame(run)["image_id"][changed])
    assert len(page.flips) == min(page.flips_total, reporting.MAX_EXAMPLES) > 0
    assert {item.before for item in page.flips} <= set(frame(pinned)["prediction"])
    assert f"{page.flips_total} images are predicted as another digit than in the baseline run" in text


def test_images_without_labels_are_never_mistakes_and_their_flips_are_changed(
    tmp_path: Path, pages: list[Page]
) -> None:
    make_split(tmp_path / "data", ROWS, labelled=False)
    before = night(tmp_path, "2026-01-30")
    run = night(tmp_path, seed=3)
    write_report(opened(outputs_of(run)), run)
    (page,) = pages
    assert (page.mistakes, page.mistakes_total) == ((), 0)
    assert {item.direction for item in page.flips} == {"changed"}
    assert page.flips_total == (frame(run)["prediction"] != frame(before)["prediction"]).sum() > 0
    assert page.trend == ()


@pytest.mark.parametrize("damage", ["gone", "bit"])
def test_without_its_shards_a_report_has_a_note_instead_of_pictures(
    damage: str, tmp_path: Path, pages: list[Page], caplog: pytest.LogCaptureFixture
) -> None:
    run = night(tmp_path)
    if damage == "gone":
        shutil.rmtree(outputs_of(run) / "shards")
    else:
        for shard in outputs_of(run).glob("shards/*/images/*.parquet"):
            flip_bit(shard)
    text = on_disk(write_report(opened(outputs_of(run)), run)).read_text()
    (page,) = pages
    assert len(page.mistakes) == page.mistakes_total > 0
    assert {picture.pixels for picture in page.mistakes} == {None}
    assert page.notes[-1] == "without pictures: the shards of this run are gone, damaged or cannot be read"
    assert "ithout pictures: the shards of this run are gone, damaged or cannot be read" in text
    assert f"the report of {run.name.run_id} is without pictures: " in caplog.text


def test_the_trend_has_the_nights_of_the_same_data_set_up_to_this_one(tmp_path: Path, pages: list[Page]) -> None:
    expected = [night(tmp_path, day, seed).name.run_id for day, seed in (("2026-01-29", 0), ("2026-01-30", 1))]
    night(tmp_path, "2026-02-01")
    night(tmp_path, "2026-01-30", dataset="other")
    run = night(tmp_path)
    write_report(opened(outputs_of(run)), run)
    (page,) = pages
    assert [item.run_id for item in page.trend] == [*expected, run.name.run_id]
    assert [item.outcome for item in page.trend] == ["none", "pass", "pass"]
    manifest = run.manifest()
    assert page.trend[-1].accuracy == manifest.totals.accuracy
    assert page.trend[-1].low <= page.trend[-1].accuracy <= page.trend[-1].high


def test_the_newest_verdict_is_the_one_shown(tmp_path: Path, pages: list[Page]) -> None:
    run = publish_run(tmp_path, identity())
    for gates in (Gates(), Gates(min_images=13)):
        verdict = judge_run(opened(tmp_path), run.name.run_id, gates)
    write_report(opened(tmp_path), run)
    (page,) = pages
    assert page.outcome == "fail"
    assert page.provenance["verdict"] == verdict.verdict_id
    assert page.provenance["weights sha256"] == run.manifest().identity.weights_sha256


def test_settings_say_by_default_that_a_report_is_wanted(tmp_path: Path) -> None:
    settings = load_settings(outputs=tmp_path)
    assert settings.report
