"""Runs the notebook of the docs: its cells are code like any other, and what is stored of them is small."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from mnist_pipeline.datasets.catalogue import unlisted
from mnist_pipeline.pipeline.nightly import run_nightly
from tests.builders import random_network, small_settings
from tests.published import on_disk, promote_to

PAGE = Path(__file__).parents[1] / "docs" / "questions.ipynb"
MAX_BYTES = 300_000
NOTEBOOK: Any = json.loads(PAGE.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_one_of_version_4_with_small_results_and_no_errors() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK["metadata"]["kernelspec"].keys() == {"display_name", "language", "name"}
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(isinstance(cell["metadata"], dict) and isinstance(cell["source"], list) for cell in NOTEBOOK["cells"])
    assert {output["output_type"] for cell in CODE for output in cell["outputs"]} <= {"execute_result", "display_data"}
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)], "run it from its first cell on"
    assert PAGE.stat().st_size < MAX_BYTES


def test_ten_questions_are_answered_by_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, run_date in enumerate(("2026-01-30", "2026-01-31")):
        settings = small_settings(tmp_path, dataset="mnist", datasets={"mnist": unlisted("mnist")}, run_date=run_date)
        promote_to(settings.outputs, random_network(seed))
        run_nightly(settings)
    monkeypatch.setenv("MNIST_PIPELINE_OUTPUTS", str(on_disk(settings.outputs)))
    plt.switch_backend("agg")
    names: dict[str, Any] = {}
    for cell in CODE:
        exec(compile("".join(cell["source"]), f"{PAGE.name}: {cell['id']}", "exec"), names)
    plt.close("all")
    assert sum(cell["source"][0].startswith("## ") for cell in NOTEBOOK["cells"]) == 10
    assert len(names["changed"]) > 0 < len(names["wrong"]), "of too few images to try the notebook with"
