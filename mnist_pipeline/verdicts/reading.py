"""Published verdicts as values: read from their tables, and the rows that hold a comparison. Judges nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mnist_pipeline import tables
from mnist_pipeline.core.comparison import Comparison, Paired, Unpaired, holm_over_digits
from mnist_pipeline.core.gates import GateResult, Gates, Outcome, Reference
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts.records import PublishedVerdict, newest_verdict

GATES_NAMED = 3  # in a line


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run. `new` is False if the same verdict was published before."""

    run_id: str
    verdict_id: str
    outcome: Outcome
    notes: tuple[str, ...]
    references: tuple[Reference, ...]
    results: tuple[GateResult, ...]
    folder: Location
    new: bool

    def fails(self, gates: Gates) -> bool:
        """Whether it fails the nightly run."""
        return self.outcome == "fail" or (self.outcome == "inconclusive" and gates.inconclusive == "fail")

    @property
    def line(self) -> str:
        """The verdict in one line, with the first gates that did not pass."""
        gates = [result.brief for result in self.results if result.outcome == self.outcome != "pass"]
        why = ["nothing was judged"] if self.outcome == "none" else gates[:GATES_NAMED]
        more = f" and {len(gates) - GATES_NAMED} more" if len(gates) > GATES_NAMED else ""
        return f"run {self.run_id}: {self.outcome}" + (f": {', '.join(why)}{more}" if why else "")


def read_verdict(published: PublishedVerdict, new: bool = False) -> Verdict:
    """Read a published verdict.

    Raises:
        DamagedError: one of its tables is altered.
    """
    document = published.document
    rows = published.read(tables.GATES).select([field.name for field in fields(GateResult)]).to_pylist()
    compared = published.read(tables.COMPARISON).to_pylist()
    return Verdict(
        run_id=document.run_id,
        verdict_id=document.verdict_id,
        outcome=published.outcome,
        notes=document.notes,
        references=tuple(
            Reference(
                **reference.model_dump(exclude={"sha256"}),
                comparisons=tuple(_comparison(row) for row in compared if row["against"] == reference.against),
            )
            for reference in document.references
        ),
        results=tuple(GateResult(**row) for row in rows),
        folder=published.folder,
        new=new,
    )


def current_verdict(outputs: Outputs, manifest: Manifest) -> Verdict | None:
    """The newest verdict on a run as it is now, or None if it was never judged.

    Raises:
        DamagedError: one of its tables is altered.
    """
    published = newest_verdict(outputs, manifest.content)
    return None if published is None else read_verdict(published)


def comparison_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The numeric columns of the comparison table, one dictionary a line."""
    rows = []
    for line, p_holm in zip(comparisons, holm_over_digits(comparisons), strict=True):
        interval = line.interval()
        paired = line if isinstance(line, Paired) else None
        rows.append(
            {
                "digit": line.digit,
                "images": line.images,
                "correct": line.correct,
                "images_before": line.images_before,
                "correct_before": line.correct_before,
                "both_right": paired and paired.both_right,
                "lost": paired and paired.lost,
                "gained": paired and paired.gained,
                "difference": line.difference,
                "low": interval and interval.low,
                "high": interval and interval.high,
                "p": line.p,
                "p_holm": p_holm,
                "method": line.method,
            }
        )
    return rows


def _comparison(row: Mapping[str, Any]) -> Comparison:
    """Convert a row of the table to a comparison."""
    kind: type[Paired] | type[Unpaired] = Unpaired if row["lost"] is None else Paired
    return kind(**{field.name: row[field.name] for field in fields(kind)})
