import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.network import BOOK, Architecture
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.datasets.catalogue import NAME_PATTERN, SPLIT_PATTERN
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs.manifest import Identity, Manifest, RunName, Totals
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import FileRecord
from tests.published import identity, on_disk, publish_run

MANIFEST = Manifest(
    schema_version="1",
    run_id=identity().run_id,
    fingerprint=identity().fingerprint,
    identity=identity(),
    totals=Totals(images=12, labelled=12, correct=11, accuracy=11 / 12),
    versions={"numpy": "2.4.6", "python": "3.11.9"},
    engine="prefect",
    workers=2,
    evaluated_at=datetime(2026, 2, 1, 2, 30, 0, 123456, UTC),
    published_at=datetime(2026, 2, 1, 2, 30, 1, tzinfo=UTC),
    timings_seconds={"fetch": 0.1, "predict": 0.9352941176470588},
    files=(
        FileRecord("predictions/part-00000.parquet", 12, 4096, "5" * 64),
        FileRecord("summary.parquet", 10, 9, "6" * 64),
    ),
)
WRITTEN = MANIFEST.to_bytes()
WHO: dict[str, Any] = json.loads(WRITTEN)["identity"]
FILE: dict[str, Any] = json.loads(WRITTEN)["files"][1]

hex64 = st.text("0123456789abcdef", min_size=64, max_size=64)
identities = st.builds(
    Identity,
    run_date=st.dates(),
    dataset=st.from_regex(NAME_PATTERN.replace("$", r"\Z")),
    split=st.from_regex(SPLIT_PATTERN.replace("$", r"\Z")),
    images=st.integers(1, 10**9),
    images_sha256=hex64,
    labels_sha256=hex64 | st.none(),
    weights_sha256=hex64,
    transform_version=st.text(max_size=20),
    schema_version=st.text(max_size=5),
    batch_rows=st.integers(1, 10**5),
    shard_rows=st.integers(1, 10**5),
)


# Who a run is


def test_the_fingerprint_stays_what_it_was() -> None:
    # Golden: published runs carry this, and a run that has been published must be found again.
    # Made by: sha256 of json.dumps(fields, sort_keys=True, separators=(",", ":")).
    who = Identity(
        run_date=date(2026, 1, 31),
        dataset="mnist",
        split="test",
        images=10_000,
        images_sha256="0" * 64,
        labels_sha256="1" * 64,
        weights_sha256="2" * 64,
        transform_version="divide-by-255-float32-row-major/1",
        schema_version="1",
        batch_rows=2048,
        shard_rows=10_000,
    )
    assert who.fingerprint == "83398d70179d03802437f99e76b7e75b60eaec6a7711191304c7427098781b73"
    assert who.run_id == "2026-01-31-mnist-test-83398d70179d"
    assert who.model_copy(update={"labels_sha256": None}).fingerprint == (
        "346a0aae025b319b7412159d6c902ba80f716910f0e6ba418932aa0be24aaa46"
    )


@given(identities, st.data())
def test_the_fingerprint_changes_with_every_field_but_the_date(who: Identity, data: st.DataObject) -> None:
    other = data.draw(identities)
    for field in Identity.model_fields:
        changed = who.model_copy(update={field: getattr(other, field)})
        same = field == "run_date" or getattr(who, field) == getattr(other, field)
        assert (changed.fingerprint == who.fingerprint) == same, field


@given(identities)
def test_a_run_id_tells_date_data_set_and_split(who: Identity) -> None:
    assert who.run_id == f"{who.run_date.isoformat()}-{who.dataset}-{who.split}-{who.fingerprint[:12]}"
    name = RunName.parse(who.run_id)
    assert name is not None
    assert (name.run_id, name.run_date, name.dataset, name.split) == (who.run_id, who.run_date, who.dataset, who.split)


@pytest.mark.parametrize(
    ("run_id", "dataset", "split"),
    [
        ("2026-01-31-my-data-set-test-0123456789ab", "my-data-set", "test"),
        ("2026-01-31-a-2026-01-31-b-0123456789ab", "a-2026-01-31", "b"),
        ("2026-01-31-toy-test-000000000000-0123456789ab", "toy-test", "000000000000"),
        ("0001-01-01-0-0-000000000000", "0", "0"),
        ("2026-01-31-toy--test-0123456789ab", "toy-", "test"),
    ],
)
def test_names_with_dashes_are_taken_apart_at_the_last_ones(run_id: str, dataset: str, split: str) -> None:
    name = RunName.parse(run_id)
    assert name is not None
    assert (name.dataset, name.split) == (dataset, split)


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        "latest",
        "2026-01-31",
        "2026-02-30-toy-test-0123456789ab",
        "0000-01-01-toy-test-0123456789ab",
        "2026-1-31-toy-test-0123456789ab",
        "\u0662\u0660\u0662\u0666-01-31-toy-test-0123456789ab",
        "2026-01-31-toy-test-0123456789a",
        "2026-01-31-toy-test-0123456789abc",
        "2026-01-31-toy-test-0123456789AB",
        "2026-01-31-toy-test-0123456789ab\n",
        " 2026-01-31-toy-test-0123456789ab",
        "2026-01-31-toy-test-0123456789ab.parquet",
        "2026-01-31-toy-test-0123456789ab.1f3a",
        "conflict-2026-01-31-toy-test-0123456789ab-1",
        "2026-01-31-Toy-test-0123456789ab",
        "2026-01-31--test-0123456789ab",
        "2026-01-31-toy-0123456789ab",
        "2026-01-31-toy/../x-test-0123456789ab",
        ".staging",
    ],
)
def test_what_is_no_run_id_is_no_run(rubbish: str) -> None:
    assert RunName.parse(rubbish) is None


@given(st.text())
def test_any_text_is_a_run_id_or_not_and_never_an_error(text: str) -> None:
    assert RunName.parse(text) is None


def test_an_identity_with_an_unknown_or_missing_field_is_refused() -> None:
    fields = identity().model_dump()
    with pytest.raises(ValidationError, match=r"threads\n.*not permitted"):
        Identity.model_validate({**fields, "threads": 2})
    del fields["weights_sha256"]
    with pytest.raises(ValidationError, match=r"weights_sha256\n.*required"):
        Identity.model_validate(fields)


# The manifest file


def test_a_manifest_comes_back_as_it_was_written() -> None:
    assert Manifest.from_bytes(WRITTEN, "x") == MANIFEST


def test_a_manifest_is_json_that_a_person_can_read_and_check() -> None:
    document = json.loads(WRITTEN)
    assert WRITTEN.decode().splitlines()[1] == '  "schema_version": "1",'
    assert document["identity"]["run_date"] == "2026-01-31"
    assert document["published_at"] == "2026-02-01T02:30:01Z"
    assert document.pop("manifest_sha256") == canonical_sha256(document)


def test_a_manifest_with_any_one_bit_flipped_is_refused() -> None:
    for position in range(len(WRITTEN)):
        changed = bytearray(WRITTEN)
        changed[position] ^= 1 << position % 8
        with pytest.raises(DamagedError, match=r"^x: expected a run's manifest"):
            Manifest.from_bytes(bytes(changed), "x")


def rewritten(**changes: Any) -> bytes:
    """A manifest with other content and a checksum that fits it; None takes a field out."""
    document = json.loads(WRITTEN) | changes
    del document["manifest_sha256"]
    document = {name: value for name, value in document.items() if name not in changes or value is not None}
    return (json.dumps({**document, "manifest_sha256": canonical_sha256(document)}, indent=2) + "\n").encode()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fingerprint": None}, "'fingerprint'"),
        (
            {"fingerprint": None, "workers": "many", "totals": {}},
            "'fingerprint', 'totals.images', 'totals.labelled', 'totals.correct', 'totals.accuracy' and 1 more",
        ),
        ({"engine": "other"}, "'engine'"),
    ],
)
def test_fields_missing_or_wrong_are_another_versions_manifest(changes: dict[str, Any], named: str) -> None:
    message = (
        "expected a run's manifest that this version can read, got one of schema version '1' in which these fields are "
        f"missing or differ: {named}; read it with the version"
    )
    with pytest.raises(DamagedError, match=message):
        Manifest.from_bytes(rewritten(**changes), "x")


def test_a_field_that_a_later_version_added_is_passed_over() -> None:
    assert Manifest.from_bytes(rewritten(colour="blue"), "x") == MANIFEST


def test_a_manifest_that_names_no_architecture_is_of_the_books_network() -> None:
    data = rewritten(architecture=None)
    assert b"architecture" not in data
    assert Manifest.from_bytes(data, "x").architecture == str(BOOK)


@pytest.mark.parametrize("hidden", [(), (200,), (1,) * 6 + (4000,)])
def test_every_architecture_can_be_in_a_manifest(hidden: tuple[int, ...]) -> None:
    name = str(Architecture(hidden, "relu" if hidden else None))
    assert Manifest.from_bytes(rewritten(architecture=name), "x").architecture == name


# What was counted

LABELS = (np.arange(12) % 10).astype(np.int8)
PREDICTED = np.where(np.arange(12) == 0, 1, LABELS).astype(np.int8)  # 11 of them right
SURE = np.full(12, 0.5, np.float32)
COUNTS = {
    "tally": Tally.count(LABELS, PREDICTED, SURE).to_json(),
    "calibration": Calibration.count(LABELS, PREDICTED, SURE, np.full((10, 12), 0.1, np.float32)).to_json(),
}


def test_a_manifest_brings_back_what_was_counted(tmp_path: Path) -> None:
    run = publish_run(tmp_path, identity())
    tally, calibration = run.manifest().counted()
    frame = pd.read_parquet(run.folder / "predictions")
    expected = pd.crosstab(frame["label"], frame["prediction"]).reindex(range(10), fill_value=0)
    np.testing.assert_array_equal(tally.confusion, expected.reindex(range(10), axis=1, fill_value=0))
    assert calibration.images == 12
    assert calibration.bin_confidence_sum.sum() == pytest.approx(frame["confidence"].sum())
    assert (tally.to_json(), calibration.to_json()) == (run.manifest().tally, run.manifest().calibration)


@pytest.mark.parametrize("lost", [["tally", "calibration"], ["tally"], ["calibration"]])
def test_a_manifest_of_a_version_that_kept_no_counts_reads_but_has_none(lost: list[str]) -> None:
    counts = dict(COUNTS)
    Manifest.from_bytes(rewritten(**counts), "x").counted()
    manifest = Manifest.from_bytes(rewritten(**(counts | dict.fromkeys(lost))), "x")
    assert manifest.totals == MANIFEST.totals
    message = (
        f"run {identity().run_id}: expected its counts in the manifest, got none: it was published by an earlier "
        "version; move it away and run --run-date 2026-01-31 again"
    )
    with pytest.raises(DamagedError, match=message):
        manifest.counted()


def test_counts_of_another_form_are_another_versions() -> None:
    counts = {"tally": Tally.empty().to_json() | {"colour": [1]}, "calibration": Calibration.empty().to_json()}
    message = (
        f"run {identity().run_id}: expected counts that this version can read, got tally: unexpected colour; "
        "read it with the version of mnist-pipeline that published it"
    )
    with pytest.raises(DamagedError, match=message):
        Manifest.from_bytes(rewritten(**counts), "x").counted()


@pytest.mark.parametrize(
    ("counts", "got"),
    [
        ({"tally": Tally.empty().to_json()}, "counts with other totals"),
        ({"tally": COUNTS["tally"] | {"confusion": [[2**62] * 10] * 10}}, "."),
        ({"calibration": COUNTS["calibration"] | {"bin_correct": [9] * 15}}, "expected 0 <= successes <= trials"),
        ({"tally": {"confusion": []}}, "tally: missing confidence_sum"),
    ],
)
def test_counts_that_contradict_each_other_are_damage(counts: dict[str, Any], got: str) -> None:
    with pytest.raises(DamagedError, match=f"expected counts that this version can read, got {got}"):
        Manifest.from_bytes(rewritten(**(COUNTS | counts)), "x").counted()


SUMS = {"images": 12, "labelled": 12, "correct": 11, "accuracy": 11 / 12}
ABSURD: dict[str, dict[str, Any]] = {
    "negative counts": {"totals": {"images": 12, "labelled": -12, "correct": -11, "accuracy": 1.0}},
    "more correct than labelled": {"totals": {"images": 12, "labelled": 3, "correct": 4, "accuracy": 1.0}},
    "an accuracy of 7": {"totals": {"images": 12, "labelled": 12, "correct": 11, "accuracy": 7.0}},
    "no accuracy": {"totals": {"images": 12, "labelled": 12, "correct": 11, "accuracy": None}},
    "too many images": {"identity": WHO | {"images": 10**30}},
    "other images than counted": {"identity": WHO | {"images": 11}},
    "a million shards": {
        "identity": WHO | {"images": 10**6, "shard_rows": 1},
        "totals": {"images": 10**6, "labelled": 0, "correct": 0, "accuracy": None},
    },
    "shards of no rows": {"identity": WHO | {"shard_rows": 0}},
    "another date": {"identity": WHO | {"run_date": "2026-02-01"}},
    "an accuracy of other counts": {"totals": SUMS | {"accuracy": 0.125}},
    "a loss below nothing": {"totals": SUMS | {"nll": -5.0}},
    "no run_id": {"run_id": "../../etc"},
    "weights elsewhere": {"identity": WHO | {"weights_sha256": "../../etc/passwd"}},
    "shards elsewhere": {"shard_set": "../../etc"},
    "the year 1": {"published_at": "0001-01-01T00:00:00Z"},
    "the year 9999": {"published_at": "9999-12-31T23:59:59-12:00"},
    "no time zone": {"evaluated_at": "2026-02-01T00:00:00"},
    "a file twice": {"files": [FILE, FILE]},
    "a file above": {"files": [FILE | {"path": "../summary.parquet"}]},
    "a file at the root": {"files": [FILE | {"path": "/etc/passwd"}]},
    "a file of two lines": {"files": [FILE | {"path": "a\nb"}]},
    "a file of negative size": {"files": [FILE | {"size_bytes": -1}]},
    "a file without a hash": {"files": [FILE | {"sha256": "6"}]},
    "seconds before it began": {"timings_seconds": {"fetch": -1.0}},
    "no network of digits": {"architecture": "784-200-9 relu"},
    "a network of two lines": {"architecture": "784-10\n"},
    "endless seconds": {"timings_seconds": {"fetch": 1e300}},
}


@pytest.mark.parametrize("changes", ABSURD.values(), ids=ABSURD)
def test_a_manifest_of_absurd_content_is_refused_though_its_checksum_holds(changes: dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match="expected a run's manifest that this version can read"):
        Manifest.from_bytes(rewritten(**changes), "x")


def test_half_a_character_is_damage_though_its_checksum_holds() -> None:
    with pytest.raises(DamagedError, match="expected a run's manifest, got a damaged file"):
        Manifest.from_bytes(rewritten(versions={"python": "\ud800"}), "x")


def counted(labels: list[int] | None) -> tuple[Tally, Calibration]:
    """Three images: predicted 0, 1 and 2 with confidences 0.5, 0.75 and 1; the second choice is the next digit."""
    probabilities = np.zeros((10, 3), np.float32)
    probabilities[[0, 1, 2], [0, 1, 2]] = confidence = np.array([0.5, 0.75, 1.0], np.float32)
    probabilities[[1, 2, 3], [0, 1, 2]] += 1 - confidence
    predictions = np.array([0, 1, 2], np.int8)
    true = None if labels is None else np.array(labels, np.int8)
    return Tally.count(true, predictions, confidence), Calibration.count(true, predictions, confidence, probabilities)


def test_totals_are_those_of_what_was_counted() -> None:
    totals = Totals.of(*counted([0, 2, 9]))
    assert (totals.images, totals.labelled, totals.correct) == (3, 3, 1)
    assert totals.accuracy == pytest.approx(1 / 3)
    assert totals.top2_accuracy == pytest.approx(2 / 3)
    assert totals.brier == pytest.approx((0.5 + 2 * 0.75**2 + 2) / 3)
    assert totals.ece == pytest.approx((0.5 + 0.75 + 1) / 3)
    assert totals.nll is not None
    assert None not in totals.model_dump().values()


def test_totals_without_labels_are_null_but_for_the_number_of_images() -> None:
    known = {"images": 3, "labelled": 0, "correct": 0}
    assert Totals.of(*counted(None)).model_dump() == dict.fromkeys(Totals.model_fields) | known


def test_a_published_manifest_comes_back(tmp_path: Path) -> None:
    run = publish_run(tmp_path, identity())
    assert (on_disk(run.folder) / "manifest.json").read_bytes() == run.manifest().to_bytes()
