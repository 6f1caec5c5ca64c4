"""The pages over the nights: what they show, what they lead to, and who writes them when."""

import base64
import hashlib
import logging
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mnist_pipeline.cli import app
from mnist_pipeline.core.network import Architecture
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.index import try_index, update_index
from mnist_pipeline.pipeline import judging
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.views import update_views
from tests.builders import random_network, small_settings
from tests.published import (
    compared_with,
    flip_bit,
    give_up,
    identity,
    on_disk,
    opened,
    promote_to,
    publish_run,
    publish_verdict,
    snapshot,
)
from tests.report.browser import checked, measured
from tests.stores import MemoryStore

LINKED = '<nav class="links"></nav><p>pictures</p>'


class Elements(HTMLParser):
    """The elements of a page: name and attributes of each, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, Mapping[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(attribute))]


def night(outputs: Path, run_date: str, outcome: str | None = "pass", report: bool = True, **changes: Any) -> Run:
    """A published run, judged and with a report if asked; the pages are not updated."""
    run = publish_run(outputs, identity(run_date, **changes), views=False)
    if outcome:
        publish_verdict(outputs, run.name.run_id, outcome=outcome, references=[compared_with(1234)])
    if report:
        opened(outputs).store.write(layout.report(run.name.run_id), LINKED.encode())
    return run


def updated(outputs: Path, *runs: Run) -> None:
    update_views(opened(outputs))
    update_index(opened(outputs), *(run.name.run_id for run in runs))


def page(outputs: Path, name: str = "index") -> str:
    return (outputs / "reports" / f"{name}.html").read_text()


def line_of(text: str, run: Run) -> str:
    """The words of the line of a run."""
    found = re.search(rf'<tr id="{run.name.run_id}">(.*?)</tr>', text, re.DOTALL)
    assert found
    return " ".join(re.sub("<[^>]*>", " ", found[1]).split())


def links(outputs: Path, run: Run) -> list[str]:
    return Elements(page(outputs, run.name.run_id)).values("href")


# What the pages show


def test_each_night_has_its_figures_and_what_is_not_known_is_no_pass(tmp_path: Path) -> None:
    passed, failed = night(tmp_path, "2026-01-26"), night(tmp_path, "2026-01-27", "fail")
    unjudged = night(tmp_path, "2026-01-28", None, labels_sha256=None)
    damaged = night(tmp_path, "2026-01-31")
    flip_bit(damaged.folder / "manifest.json")
    updated(tmp_path)
    text = page(tmp_path)
    assert line_of(text, passed).startswith("2026-01-26 pass 33333333 ")
    assert " 1,234 " in line_of(text, passed)
    assert line_of(text, failed).startswith("2026-01-27 fail ")
    assert line_of(text, unjudged).startswith("2026-01-28 no verdict 33333333 no labels -")
    assert line_of(text, damaged).startswith("2026-01-31 cannot be read")
    cells = [each for each in Elements(text).values("title") if each.startswith("2026-01-")]
    assert cells == [
        "2026-01-26: pass, 0.00 %", "2026-01-27: fail, 0.00 %", "2026-01-28: no verdict",
        "2026-01-29: no run", "2026-01-30: no run", "2026-01-31: cannot be read",
    ]  # fmt: skip
    assert re.search(r"2026-01-29<small>to 2026-01-30</small></th><td[^>]*>no run", text)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_too_wide_or_in_the_way(dark: bool, tmp_path: Path) -> None:
    runs = [night(tmp_path, f"2026-{month:02}-{day:02}") for month in (1, 2, 3) for day in range(1, 28, 2)]
    night(tmp_path, "2026-03-28", "fail")
    night(tmp_path, "2026-03-30", None, labels_sha256=None)
    publish_run(tmp_path, identity("2026-03-31"), counts=False)
    flip_bit(runs[-1].folder / "manifest.json")
    updated(tmp_path)
    for name in ("index", "2026-03"):
        text = page(tmp_path, name).replace(
            "screen and (prefers-color-scheme: dark)", "screen" if dark else "screen and (max-width: 0)"
        )
        for found in checked(text, tmp_path, 1280, 390):
            assert found["violations"] == []
        for width, found in zip((1280, 768, 390), measured(text, tmp_path, 1280, 768, 390), strict=True):
            assert (found["content"], found["beyond"], found["cut"], found["collisions"]) == (width, [], [], 0)


def test_what_does_not_count_or_was_decided_is_said(tmp_path: Path) -> None:
    first, second = night(tmp_path, "2026-01-30"), night(tmp_path, "2026-01-30", batch_rows=9)
    by_hand = publish_run(tmp_path, identity("2026-01-31"), counts=False)
    decide(opened(tmp_path), second, "withdrawn", "bad weights")
    give_up(tmp_path, first.name.run_id)
    updated(tmp_path)
    text = page(tmp_path)
    assert "withdrawn" in line_of(text, second)
    assert "predictions pruned" in line_of(text, first)
    assert "made by hand, does not count" in line_of(text, by_hand)
    assert "2026-01-31: no verdict, made by hand, does not count" in Elements(text).values("aria-label")
    assert 'aria-label="Accuracy of 1 night of toy/test' in text
    assert f'href="{first.name.run_id}.html" title="2026-01-30' in text


def test_weights_are_named_as_they_were_promoted(tmp_path: Path) -> None:
    promote_to(tmp_path, random_network(architecture=Architecture((20,), "relu")))
    (sha256,) = (path.stem for path in (tmp_path / "weights").iterdir())
    run = night(tmp_path, "2026-01-30", weights_sha256=sha256)
    updated(tmp_path)
    assert f"{sha256[:8]} promoted 2026-01-01, 784-20-10 relu" in line_of(page(tmp_path), run)


def test_the_index_holds_the_newest_days_and_the_months_hold_all(tmp_path: Path) -> None:
    old, edge, new = (night(tmp_path, day) for day in ("2025-11-01", "2025-11-03", "2026-01-31"))
    other = night(tmp_path, "2025-12-31", dataset="other")
    updated(tmp_path)
    assert old.name.run_id not in page(tmp_path)
    assert all(f'<tr id="{run.name.run_id}"' in page(tmp_path) for run in (edge, new, other))
    assert {"2025-11.html", "2025-12.html", "2026-01.html"} <= set(Elements(page(tmp_path)).values("href"))
    assert all(f'<tr id="{run.name.run_id}"' in page(tmp_path, run.name.run_id[:7]) for run in (old, edge, new, other))
    assert "2025-11-02: no run" in page(tmp_path, "2025-11")
    assert "toy" not in page(tmp_path, "2025-12")


def test_no_link_is_dead(tmp_path: Path) -> None:
    runs = [night(tmp_path, f"2026-0{month}-15", report=month % 2 == 0) for month in range(1, 8)]
    updated(tmp_path, *runs)
    pages = {path.name: Elements(path.read_text()) for path in (tmp_path / "reports").iterdir()}
    targets = {
        (target.partition("#")[0] or name, target.partition("#")[2])
        for name, elements in pages.items()
        for target in elements.values("href")
    }
    assert len(targets) > len(pages)
    assert [each for each in targets if each[1] and each[1] not in pages[each[0]].values("id")] == []
    assert {name for name, _ in targets} == pages.keys()


def test_a_page_loads_nothing_and_can_be_used_by_keyboard(tmp_path: Path) -> None:
    night(tmp_path, "2026-01-30")
    updated(tmp_path)
    text, elements = page(tmp_path), Elements(page(tmp_path))
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text
    assert not elements.values("src")
    named = [name for name, _ in elements.found]
    assert (named.count("main"), named.count("h1"), named.count("caption")) == (1, 1, 1)
    assert all(attributes.get("scope") for name, attributes in elements.found if name == "th")
    (region,) = [each for _, each in elements.found if each.get("role") == "region"]
    assert region["tabindex"] == "0"
    assert region["aria-label"] == "Runs of toy/test"


# When they are written


def test_only_pages_that_change_are_written(tmp_path: Path) -> None:
    for day in ("2025-12-31", "2026-01-31"):
        night(tmp_path, day)
    updated(tmp_path)
    before = snapshot(tmp_path / "reports")
    updated(tmp_path)
    assert snapshot(tmp_path / "reports") == before
    run = night(tmp_path, "2026-02-01", report=False)
    updated(tmp_path, run)
    after = snapshot(tmp_path / "reports")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"index.html", "2026-02.html", f"{identity('2026-01-31').run_id}.html"}


def test_pages_are_rebuilt_and_that_of_a_month_whose_runs_were_moved_away_goes(tmp_path: Path) -> None:
    gone, _ = night(tmp_path, "2025-12-31"), night(tmp_path, "2026-01-31")
    updated(tmp_path)
    (tmp_path / "reports" / "index.html").unlink()
    (tmp_path / "reports" / "2026-01.html").write_text("rubbish")
    on_disk(gone.folder).rename(tmp_path / "elsewhere")
    updated(tmp_path)
    assert not (tmp_path / "reports" / "2025-12.html").exists()
    assert "2026-01-31" in page(tmp_path)
    assert "2026-01-31" in page(tmp_path, "2026-01")


def test_nights_that_update_the_pages_at_once_lose_none(tmp_path: Path) -> None:
    def publish(day: int) -> None:
        updated(tmp_path, night(tmp_path, f"2026-01-{day:02}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(publish, range(1, 9)))
    before = snapshot(tmp_path / "reports")
    update_index(opened(tmp_path), *(identity(f"2026-01-{day:02}").run_id for day in range(1, 9)), afresh=True)
    assert snapshot(tmp_path / "reports") == before
    assert all(f"2026-01-{day:02}: pass" in page(tmp_path) for day in range(1, 9))


def test_pages_in_a_store_without_renames_are_the_same(tmp_path: Path) -> None:
    outputs = Outputs(MemoryStore(has_rename=False))
    for where in (tmp_path, outputs):
        publish_run(where, identity("2026-01-31"))
        update_index(opened(where))
    assert outputs.store.read(layout.INDEX).decode() == page(tmp_path)


def test_pages_that_cannot_be_written_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish_run(tmp_path, identity())
    (tmp_path / "reports").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        try_index(opened(tmp_path))
    assert f"the pages over the nights in {tmp_path} could not be updated: " in caplog.text
    assert "Traceback" not in caplog.text


def test_a_night_that_could_not_be_judged_is_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise DamagedError("planted")

    monkeypatch.setattr(judging, "judge_run", broken)
    with pytest.raises(DamagedError, match="planted"):
        run_nightly(settings := small_settings(tmp_path))
    assert "2026-01-31: no verdict" in page(on_disk(settings.outputs))


# Links between reports


def test_a_report_gains_its_next_night_and_the_rest_of_it_stays(tmp_path: Path) -> None:
    first = night(tmp_path, "2026-01-29")
    updated(tmp_path, first)
    third = night(tmp_path, "2026-01-31")
    updated(tmp_path, third)
    assert links(tmp_path, first) == ["index.html#toy-test", f"{third.name.run_id}.html"]
    second = night(tmp_path, "2026-01-30", report=False)  # filled in later
    updated(tmp_path, second)
    assert links(tmp_path, first) == ["index.html#toy-test", f"2026-01.html#{second.name.run_id}"]
    assert links(tmp_path, third) == ["index.html#toy-test", f"2026-01.html#{second.name.run_id}"]
    assert page(tmp_path, first.name.run_id).endswith("</nav><p>pictures</p>")
    decide(opened(tmp_path), second, "withdrawn", "bad weights")
    assert links(tmp_path, first) == ["index.html#toy-test", f"{third.name.run_id}.html"]


# The command


def opening(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["open", *map(str, words)])
    return result.exit_code, result.output


def test_open_opens_the_index_or_the_report_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def found(address: str) -> bool:
        shown.append(address)
        return len(shown) < 3

    monkeypatch.setattr("webbrowser.open", found)
    assert opening("--outputs", tmp_path)[0] == 5
    run = night(tmp_path, "2026-01-31")
    where = ("--dataset", "toy", "--outputs", tmp_path)
    index, report = (tmp_path / "reports" / f"{name}.html" for name in ("index", run.name.run_id))
    assert opening(*where) == (0, f"{index}\n")
    assert opening("latest", *where) == (0, f"{report}\n")
    report.unlink()
    code, said = opening("latest", *where)
    assert (code, report.exists()) == (0, True)
    assert said.endswith("not opened: no browser found here; open the file yourself\n")
    assert shown == [path.as_uri() for path in (index, report, report)]
