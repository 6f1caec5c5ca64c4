from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mnist_pipeline.api import compare, load_run
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.errors import SettingsError
from mnist_pipeline.pipeline.judging import judge_run
from tests.published import identity, opened, publish_run


def two_runs(outputs: Path, seed: int = 1, **changes: Any) -> tuple[str, str]:
    old = publish_run(outputs, identity("2026-01-30", weights_sha256="8" * 64), views=False)
    return old.name.run_id, publish_run(outputs, identity(**changes), views=False, seed=seed).name.run_id


def test_a_comparison_has_what_a_verdict_against_that_run_has(tmp_path: Path) -> None:
    old, new = two_runs(tmp_path)
    judge_run(opened(tmp_path), new, Gates(), against={"baseline": old})
    compared = compare("2026-01-30", "latest", "toy", outputs=tmp_path)
    for frame, table in ((compared.digits, "comparison"), (compared.changed, "flips")):
        published = load_run(new, outputs=tmp_path, table=table).drop(columns=["verdict_id", "against"])  # type: ignore[arg-type]
        assert len(frame) == len(published) > 0
        pd.testing.assert_frame_equal(frame, published)
        assert frame.attrs == {"run_id": new, "reference_run_id": old}


def test_a_comparison_without_changes_says_so(tmp_path: Path) -> None:
    old, new = two_runs(tmp_path, seed=0)
    digits, changed = compare(old, new, outputs=tmp_path)
    assert changed.empty
    assert changed.attrs["empty_because"] == "no prediction changed"
    assert digits["lost"].tolist() == [0] * 11
    assert list(changed.columns) == list(compare(new, old, outputs=tmp_path).changed.columns)


def test_a_comparison_over_other_images_without_labels_says_so(tmp_path: Path) -> None:
    old, new = two_runs(tmp_path, images_sha256="7" * 64, labels_sha256=None)
    digits, changed = compare(old, new, outputs=tmp_path)
    assert changed.attrs["empty_because"] == "the runs are over different images"
    assert digits.attrs["empty_because"] == "no labels: correctness cannot be determined"


def test_runs_of_two_splits_are_not_compared(tmp_path: Path) -> None:
    old, new = two_runs(tmp_path, split="train")
    with pytest.raises(SettingsError, match="expected two of the same data set and split"):
        compare(old, new, outputs=tmp_path)
