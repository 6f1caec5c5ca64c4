"""What the commands find that evaluate or show a run."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime
from typing import Any, Literal, Self

from pydantic import Field

from mnist_pipeline.cli.results.facts import ARCHITECTURE, Facts, Result
from mnist_pipeline.core.gates import GateResult, Outcome, Reference
from mnist_pipeline.core.tally import DigitScore
from mnist_pipeline.errors import StoreError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import counted_at
from mnist_pipeline.runs.decisions import Decision, known_decision
from mnist_pipeline.runs.manifest import Totals
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.base import exists
from mnist_pipeline.verdicts.reading import Verdict, comparison_rows


class ComparisonFacts(Facts):
    """The comparison of one digit, or of all together, over two runs."""

    digit: int | None
    images: int
    correct: int
    images_before: int
    correct_before: int
    both_right: int | None
    lost: int | None
    gained: int | None
    difference: float | None
    low: float | None
    high: float | None
    p: float
    p_holm: float | None
    method: str


class ReferenceFacts(Facts):
    """A run that another was compared with."""

    against: str
    run_id: str = Field(description="of the reference")
    problem: str | None = Field(description="why they cannot be compared; null if they can")
    same_images: bool = Field(description="whether both are over the same images")
    same_labels: bool = Field(description="whether both have the same labels")
    same_weights: bool = Field(description="whether both used the same weights")
    changed: int | None = Field(description="images whose prediction changed; null if the images differ")
    comparisons: tuple[ComparisonFacts, ...] = Field(
        description="all digits together, then each digit; empty without labels"
    )


class VerdictFacts(Facts):
    """A verdict on a run."""

    verdict_id: str
    outcome: Outcome
    gates: tuple[GateResult, ...] = Field(description="the result of each gate")
    references: tuple[ReferenceFacts, ...] = Field(description="the runs it was compared with")
    notes: tuple[str, ...] = Field(description="what a reader of the verdict should know")
    folder: str = Field(description="folder of its tables")

    @classmethod
    def of(cls, verdict: Verdict) -> Self:
        """The facts of a verdict."""
        references = tuple(
            ReferenceFacts(
                against=each.against,
                run_id=each.run_id,
                problem=each.problem,
                **compared(each),
            )
            for each in verdict.references
        )
        return cls(
            verdict_id=verdict.verdict_id,
            outcome=verdict.outcome,
            gates=verdict.results,
            references=references,
            notes=verdict.notes,
            folder=str(verdict.folder),
        )


def compared(reference: Reference) -> dict[str, Any]:
    """The fields that are about the comparison of two runs."""
    return {
        "same_images": reference.same_images,
        "same_labels": reference.same_labels,
        "same_weights": reference.same_weights,
        "changed": reference.changed,
        "comparisons": tuple(ComparisonFacts(**row) for row in comparison_rows(reference.comparisons)),
    }


class DecisionFacts(Facts):
    """What a person decided of a run."""

    standing: Literal["accepted", "withdrawn"]
    reason: str = Field(description="why, in the person's words")
    decided_at: datetime = Field(description="when")

    @classmethod
    def of(cls, decision: Decision | None) -> Self | None:
        """The facts of a decision; None of none."""
        if decision is None:
            return None
        return cls(standing=decision.standing, reason=decision.reason, decided_at=decision.decided_at)


class RunFacts(Result):
    """A published run with its newest verdict."""

    run_id: str
    run_date: date
    dataset: str
    split: str
    counts: bool = Field(description="whether it is, or was, the run of its date; one made by hand or withdrawn is not")
    totals: Totals = Field(description="the run in a few numbers")
    digits: tuple[DigitScore, ...] = Field(description="the scores of the ten digits")
    verdict: VerdictFacts | None = Field(description="the newest; null if it was not judged yet or is damaged")
    decision: DecisionFacts | None = Field(description="the newest; null if nothing was decided or it is damaged")
    architecture: str = Field(description=ARCHITECTURE)
    weights_sha256: str
    sources: dict[str, str] = Field(description="where images, labels and weights were read from, by setting")
    published_at: datetime
    files: str = Field(description="folder of its files")
    report: str | None = Field(description="its report; null if it has none")

    @property
    def last_words(self) -> Iterable[str]:
        return (f"{self.run_id}: {self.verdict.outcome if self.verdict else 'not judged'}",)


def facts_of(run: Run, scores: Sequence[DigitScore], verdict: Verdict | None) -> dict[str, Any]:
    """The fields of `RunFacts`, read from a published run.

    Raises:
        DamagedError: its manifest is missing or altered.
    """
    manifest, page = run.manifest(), None
    with suppress(StoreError):  # a missing report must not hide the run
        if exists(run.outputs.store, name := layout.report(run.name.run_id)):
            page = str(run.outputs.path(name))
    return {
        **run.name.key_columns,
        "counts": counted_at(run.outputs, run) is not None,
        "totals": manifest.totals,
        "digits": tuple(scores),
        "verdict": VerdictFacts.of(verdict) if verdict else None,
        "decision": DecisionFacts.of(known_decision(run.outputs, manifest.content)),
        "architecture": manifest.architecture,
        "weights_sha256": manifest.identity.weights_sha256,
        "sources": dict(manifest.sources),
        "published_at": manifest.published_at,
        "files": str(run.files),
        "report": page,
    }


class RunResult(RunFacts):
    """The run that was evaluated; it is published, whatever the verdict."""

    new: bool = Field(description="false if it was published before with the same predictions")
    by_hand: tuple[str, ...] = Field(description="the settings given by hand for which it does not count")


class ShowResult(RunFacts):
    """A published run."""

    pruned_at: datetime | None
    damaged: tuple[str, ...] = Field(description="what of verdict and decision cannot be read, and why")
