"""The verdict on a published run: compared with its references, judged by its gates, published beside it.

Reads what is published and nothing else, so that any run can be judged again, by other gates or against another
baseline. One pass over the predictions, in bounded memory.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from mnist_pipeline import tables, views
from mnist_pipeline.core.comparison import Comparison, Paired, Pairs, Unpaired, holm_over_digits, unpaired
from mnist_pipeline.core.gates import GateResult, Gates, Outcome, Reference, outcome_of
from mnist_pipeline.core.judgement import judge
from mnist_pipeline.errors import DamagedError, RunNotFoundError, SettingsError
from mnist_pipeline.pipeline.evaluation import Published
from mnist_pipeline.runs.lookup import Run, list_runs, run_by_id
from mnist_pipeline.runs.manifest import Manifest, RunContent
from mnist_pipeline.runtime import versions
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.files import outputs_errors
from mnist_pipeline.store.objects import Location
from mnist_pipeline.tables.columns import column_of
from mnist_pipeline.verdicts.alignment import AlignedChunk, align
from mnist_pipeline.verdicts.baselines import read_baselines
from mnist_pipeline.verdicts.records import (
    PublishedVerdict,
    ReferenceRecord,
    StagedVerdict,
    VerdictDocument,
    commit_verdict,
    newest_verdict,
    sound_verdict,
    staged_verdict,
    verdict_id,
)

logger = logging.getLogger(__name__)

LAST_PASSED, EARLIER, BASELINE = "last passed", "earlier", "baseline"  # earlier: nothing was judged there


@dataclass(frozen=True)
class _Chosen:
    """A run to compare with, and why that cannot be done if it cannot."""

    content: RunContent
    problem: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What is said of a run. `new` is False if the very same had been judged before."""

    run_id: str
    verdict_id: str
    outcome: Outcome
    notes: tuple[str, ...]
    references: tuple[Reference, ...]
    results: tuple[GateResult, ...]
    folder: Location
    new: bool

    def fails(self, gates: Gates) -> bool:
        """Whether a night ends as failed by it."""
        return self.outcome == "fail" or (self.outcome == "inconclusive" and gates.inconclusive == "fail")

    @property
    def line(self) -> str:
        """The verdict in one line, with the gates that did not pass."""
        gates = [result.brief for result in self.results if result.outcome == self.outcome != "pass"]
        why = ["nothing was judged"] if self.outcome == "none" else gates
        return f"run {self.run_id}: {self.outcome}" + (f": {', '.join(why)}" if why else "")


@dataclass(frozen=True)
class Judged:
    """A night: what was published, and what is to be said of it."""

    published: Published
    verdict: Verdict
    accepted: bool  # False ends the night as failed; the run stays published


def judge_published(settings: Settings, published: Published) -> Judged:
    """Judge a run by the gates of its data set.

    Raises:
        PipelineError: as `judge_run`; the run itself stays published.
    """
    gates = settings.gates_of_dataset()
    verdict = judge_run(settings.outputs, published.run_id, gates, gates_chosen=settings.dataset in settings.gates)
    return Judged(published, verdict, accepted=not verdict.fails(gates))


def judge_run(
    outputs: Location,
    run_id: str,
    gates: Gates,
    against: Mapping[str, str] | None = None,
    gates_chosen: bool = True,
) -> Verdict:
    """Judge a published run, or find the verdict on it that these references and gates have given before.

    A verdict that is damaged is set aside and given again.

    Args:
        outputs: the outputs folder.
        run_id: of the run.
        gates: what it has to keep.
        against: run_ids to compare with, by what they are; an earlier run and the baseline if None.
        gates_chosen: whether somebody has chosen these gates for the data set. If so the earlier run is the last that
            passed, as long as there is one; if not, the newest that passed or on which nothing was judged.

    Raises:
        RunNotFoundError: no such run.
        DamagedError: the run itself does not verify.
        PrunedError: it has to be compared image by image, and its predictions were given up.
        OutputsError: the outputs folder cannot be read or written.
    """
    with outputs_errors(f"cannot judge run {run_id} in {outputs}"):
        return _judge_run(outputs, run_id, gates, against, gates_chosen)


def _judge_run(
    outputs: Location, run_id: str, gates: Gates, against: Mapping[str, str] | None, gates_chosen: bool
) -> Verdict:
    run = run_by_id(outputs, run_id)
    manifest = run.manifest()
    if against is None:
        chosen = dict(_references(outputs, run, manifest, gates_chosen))
    else:
        chosen = {name: _look_at(outputs, reference) for name, reference in against.items()}
    asked = asdict(gates)
    name = verdict_id(manifest.content, {against: reference.content for against, reference in chosen.items()}, asked)
    published = sound_verdict(outputs, run_id, name)
    if published is not None:
        return read_verdict(published)
    if problems := run.problems():  # without a reference over the same images nothing below reads the predictions
        again = f"run --run-date {manifest.identity.run_date} again to set it aside and publish it anew"
        raise DamagedError(f"run {run_id}: expected it as it was published, got {'; '.join(problems)}; {again}")
    with staged_verdict(outputs, run_id, name) as staged:
        constants = {"run_id": run_id, "run_date": manifest.identity.run_date, "verdict_id": name}
        references = _compare_all(outputs, run, chosen, constants, staged)
        results = judge(gates, *manifest.counted(), references)
        staged.add(tables.COMPARISON, _comparison_rows(references, constants))
        staged.add(tables.GATES, _gate_rows(results, gates, constants))
        document = VerdictDocument(
            schema_version=tables.SCHEMA_VERSION,
            verdict_id=name,
            run_id=run_id,
            run_sha256=str(manifest.content.sha256),
            outcome=outcome_of(results),
            notes=tuple(_notes(manifest, references, results, gates_chosen)),
            references=tuple(_record(reference, chosen[reference.against].content) for reference in references),
            gates=asked,
            versions=versions(),
            judged_at=datetime.now(UTC),
            files=tuple(staged.files),
        )
        published = commit_verdict(outputs, staged, document)
    views.update_views(outputs)
    verdict = read_verdict(published, new=published.document.judged_at == document.judged_at)
    logger.info("run %s judged: %s", run_id, verdict.outcome)
    return verdict


def read_verdict(published: PublishedVerdict, new: bool = False) -> Verdict:
    """What a published verdict says.

    Raises:
        DamagedError: a table of it is altered.
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


def current_verdict(outputs: Location, manifest: Manifest) -> Verdict | None:
    """The newest verdict on a run as it is now, or None if it was never judged.

    Raises:
        DamagedError: a table of it is altered.
    """
    published = newest_verdict(outputs, manifest.content)
    return None if published is None else read_verdict(published)


def compare(before: Run, now: Run, against: str, look: Callable[[AlignedChunk], None] | None = None) -> Reference:
    """What changed from one run to another of the same data set and split.

    Args:
        before: the reference.
        now: the run that is looked at.
        against: what the reference is to it, for messages.
        look: given each stretch of the predictions side by side, if the images are the same.

    Raises:
        SettingsError: the runs are of different data sets or splits.
        DamagedError: one of them does not verify.
    """
    old, new = before.manifest(), now.manifest()
    if (old.identity.dataset, old.identity.split) != (new.identity.dataset, new.identity.split):
        raise SettingsError(
            f"runs {old.run_id} and {new.run_id}: expected two of the same data set and split, got "
            f"{old.identity.dataset}/{old.identity.split} and {new.identity.dataset}/{new.identity.split}; "
            "compare runs of one"
        )
    reference = Reference(
        against,
        old.run_id,
        same_images=(old.identity.images_sha256, old.identity.labels_sha256)
        == (new.identity.images_sha256, new.identity.labels_sha256),
        same_weights=old.identity.weights_sha256 == new.identity.weights_sha256,
    )
    if not reference.same_images:
        (theirs, _), (ours, _) = old.counted(), new.counted()
        labelled = theirs.labelled and ours.labelled
        return replace(reference, comparisons=unpaired(theirs, ours) if labelled else ())
    pairs = Pairs.empty()
    for chunk in align(before, now):
        pairs += chunk.count()
        if look:
            look(chunk)
    comparisons = pairs.comparisons() if pairs.cells.any() else ()
    return replace(reference, changed=int(pairs.changed), comparisons=comparisons)


def _references(outputs: Location, run: Run, manifest: Manifest, gates_chosen: bool) -> Iterator[tuple[str, _Chosen]]:
    """The runs that a run is compared with unless told otherwise, by what they are."""
    name, earlier = run.name, _earlier_runs(outputs, run, manifest)
    if gates_chosen:
        found = _newest_fit(outputs, earlier, ("pass",)) or _newest_fit(outputs, earlier, ("none",))
    else:
        found = _newest_fit(outputs, earlier, ("pass", "none"))
    if found is not None:
        yield found
    pinned = read_baselines(outputs).get(name.split_of)
    if pinned not in (None, name.run_id):
        yield BASELINE, _look_at(outputs, pinned)


def _earlier_runs(outputs: Location, run: Run, manifest: Manifest) -> list[RunContent]:
    """The runs of the same data set and split before this one, the newest by (run_date, published_at) first."""
    name, earlier = run.name, []
    for other in list_runs(outputs):
        if other.name.run_id == name.run_id or not other.name.is_of(name.dataset, name.split):
            continue
        try:
            found = other.manifest()
        except DamagedError as error:
            logger.warning("not a reference: %s", error)
            continue
        order = (other.name.run_date, found.published_at)
        if order < (name.run_date, manifest.published_at):
            earlier.append((order, found.content))
    return [content for _, content in sorted(earlier, key=lambda item: item[0], reverse=True)]


def _newest_fit(
    outputs: Location, earlier: Sequence[RunContent], outcomes: Sequence[Outcome]
) -> tuple[str, _Chosen] | None:
    """The first of some runs whose newest verdict has one of these outcomes, with what it is to the run judged.

    One that cannot be compared with stands back for a later one, if there is any: every night after it would be
    inconclusive otherwise, until somebody has seen to it.
    """
    unfit = None
    for content in earlier:
        verdict = newest_verdict(outputs, content)
        if verdict and verdict.outcome in outcomes:
            against = LAST_PASSED if verdict.outcome == "pass" else EARLIER
            chosen = _look_at(outputs, content.run_id)
            if chosen.problem is None:
                return against, chosen
            logger.warning("run %s is no good reference: %s", content.run_id, chosen.problem)
            unfit = unfit or (against, chosen)
    return unfit


def _compare_all(
    outputs: Location, run: Run, chosen: Mapping[str, _Chosen], constants: Mapping[str, Any], staged: StagedVerdict
) -> tuple[Reference, ...]:
    """Compare with every reference, and write the table of flips."""
    references = []
    with staged.writer(tables.FLIPS) as writer:
        for against, reference in chosen.items():
            run_id = reference.content.run_id
            if reference.problem:
                logger.warning("not compared with the %s run %s: %s", against, run_id, reference.problem)
                references.append(Reference(against, run_id, problem=reference.problem))
                continue
            of_reference = {**constants, "against": against, "reference_run_id": run_id}

            def write(chunk: AlignedChunk, of_reference: dict[str, Any] = of_reference) -> None:
                writer.append(chunk.flips(of_reference))

            references.append(compare(run_by_id(outputs, run_id), run, against, write))
    return tuple(references)


def _look_at(outputs: Location, run_id: str) -> _Chosen:
    """Look at a reference whole before a single flip is written: half a comparison is none.

    And before the verdict has a name: what cannot be read now may be whole the next time, for another verdict.
    """
    unknown = RunContent(run_id, None)
    try:
        before = run_by_id(outputs, run_id)
    except RunNotFoundError:
        return _Chosen(unknown, "it is not there any more")
    if problems := before.problems():
        again = f"run --run-date {before.name.run_date} again to set it aside and publish it anew"
        return _Chosen(unknown, f"it does not verify: {'; '.join(problems)}; {again}")
    manifest = before.manifest()
    if before.pruned():
        return _Chosen(manifest.content, "its predictions were pruned")
    try:
        manifest.counted()
    except DamagedError as error:  # of an earlier version
        return _Chosen(manifest.content, str(error))
    return _Chosen(manifest.content)


def _notes(
    manifest: Manifest, references: Sequence[Reference], results: Sequence[GateResult], gates_chosen: bool
) -> Iterator[str]:
    identity, totals = manifest.identity, manifest.totals
    if not gates_chosen:
        yield (
            f"no gates are chosen for {identity.dataset}: only certain losses, and changes without a cause, fail it; "
            f"choose bounds under [gates.{identity.dataset}] in a config file"
        )
    if not references:
        which = "has passed" if gates_chosen else "has passed, or had nothing to judge"
        who = f"{identity.dataset}/{identity.split}"
        yield f"compared with nothing: no earlier run of {who} {which}, and no baseline is set"
    if not totals.labelled:
        yield "no labels: what is right and wrong cannot be known"
    for reference in references:
        if reference.changed and not any(result.against == reference.against for result in results):
            yield (
                f"not judged: {reference.changed:,} of {totals.images:,} predictions changed against the "
                f"{reference.against} run, whose weights were others"
            )


def _record(reference: Reference, content: RunContent) -> ReferenceRecord:
    facts = {name: getattr(reference, name) for name in ReferenceRecord.model_fields.keys() - {"sha256"}}
    return ReferenceRecord(sha256=content.sha256, **facts)


def _comparison_rows(references: Sequence[Reference], constants: Mapping[str, Any]) -> pa.Table:
    rows = [
        {"against": reference.against, "reference_run_id": reference.run_id, **row}
        for reference in references
        for row in comparison_rows(reference.comparisons)
    ]
    return _table(tables.COMPARISON, rows, constants)


def comparison_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The columns of the comparison table that are about the numbers, one dictionary a line."""
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


def _gate_rows(results: Sequence[GateResult], gates: Gates, constants: Mapping[str, Any]) -> pa.Table:
    return _table(tables.GATES, [asdict(result) for result in results], {**constants, "confidence": gates.confidence})


def _table(table: tables.Table, rows: Sequence[Mapping[str, Any]], constants: Mapping[str, Any]) -> pa.Table:
    columns = {}
    for column in table.columns:
        if column.name in constants:
            columns[column.name] = tables.constant(constants[column.name], column.type, len(rows))
        else:
            columns[column.name] = column_of([row[column.name] for row in rows], column.type)
    return tables.build(table, columns)


def _comparison(row: Mapping[str, Any]) -> Comparison:
    """The comparison behind a row of the table."""
    kind: type[Paired] | type[Unpaired] = Unpaired if row["lost"] is None else Paired
    return kind(**{field.name: row[field.name] for field in fields(kind)})
