"""Judges a published run: compares it with its references, applies its gates and publishes the verdict beside it.

Reads only published files, so that any run can be judged again, by other gates or against another baseline. Makes one
pass over the predictions, in bounded memory.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.core.comparison import Pairs, unpaired
from mnist_pipeline.core.gates import GateResult, Gates, Outcome, Reference, outcome_of
from mnist_pipeline.core.intervals import chance_note
from mnist_pipeline.core.judgement import judge
from mnist_pipeline.core.tally import partly_labelled
from mnist_pipeline.errors import DamagedError, RunNotFoundError, SettingsError
from mnist_pipeline.index import try_index
from mnist_pipeline.pipeline.evaluation import Published
from mnist_pipeline.runs.decisions import known_decision
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.runs.manifest import Manifest, RunContent, RunName, Totals
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.runtime import versions
from mnist_pipeline.settings import Settings
from mnist_pipeline.verdicts.alignment import AlignedChunk, align
from mnist_pipeline.verdicts.baselines import read_baselines
from mnist_pipeline.verdicts.reading import Verdict, comparison_rows, read_verdict
from mnist_pipeline.verdicts.records import (
    ReferenceRecord,
    StagedVerdict,
    VerdictDocument,
    commit_verdict,
    sound_verdict,
    staged_verdict,
    verdict_id,
)
from mnist_pipeline.views import current_views, stored_runs, update_views

logger = logging.getLogger(__name__)

LAST_PASSED, EARLIER, BASELINE = "last passed", "earlier", "baseline"  # earlier: nothing was judged there


@dataclass(frozen=True)
class _Chosen:
    """A reference, and the problem that prevents comparing with it, if any."""

    content: RunContent
    problem: str | None = None


@dataclass(frozen=True)
class Judged:
    """A published run, its verdict, and what a person has decided of it, in a line."""

    published: Published
    verdict: Verdict
    accepted: bool  # False fails the nightly run; the run stays published
    decision: str | None = None

    @property
    def line(self) -> str:
        """As `judged_line`."""
        return judged_line(self.verdict.line, self.published.totals, self.decision)


def judged_line(verdict: str, totals: Totals, decision: str | None = None) -> str:
    """A verdict in one line, whether the accuracy may be chance or is of some images only, and the decision."""
    chance = chance_note(totals.correct, totals.labelled)
    some = partly_labelled(totals.labelled, totals.images)
    return "; ".join(filter(None, (verdict, chance and f"accuracy {chance}", some, decision)))


def judge_published(settings: Settings, published: Published) -> Judged:
    """Judge a run by the gates of its data set; one that a person has accepted or withdrawn is what they decided.

    The pages over the nights show it afterwards, also if it could not be judged.

    Raises:
        PipelineError: as `judge_run`; the run itself stays published.
    """
    outputs, gates = Outputs.at(settings.outputs), settings.gates_of_dataset()
    try:
        verdict = judge_run(
            outputs,
            published.run_id,
            gates,
            gates_chosen=settings.dataset in settings.gates,
            verified=True,
        )
    finally:
        try_index(outputs, published.run_id)
    accepted, line = not verdict.fails(gates), None
    if known_decision(outputs, RunContent(published.run_id, None)):  # of whatever content
        decision = known_decision(outputs, run_by_id(outputs, published.run_id).manifest().content)
        if decision:
            accepted, line = decision.standing == "accepted", decision.line
    return Judged(published, verdict, accepted, line)


def judge_run(
    outputs: Outputs,
    run_id: str,
    gates: Gates,
    against: Mapping[str, str] | None = None,
    gates_chosen: bool = True,
    verified: bool = False,
) -> Verdict:
    """Judge a published run, or find its existing verdict for the same references and gates.

    A damaged verdict is quarantined and recomputed.

    Args:
        outputs: the outputs folder.
        run_id: of the run.
        gates: the gates to apply.
        against: run_ids of the references, by kind of reference; an earlier run and the baseline if None.
        gates_chosen: whether these gates are configured for the data set. If so, the earlier run is the last that
            passed, if there is one; if not, the newest that passed or on which nothing was judged.
        verified: whether its files were verified a moment ago.

    Raises:
        RunNotFoundError: no such run.
        DamagedError: the run itself does not verify.
        PrunedError: it must be compared image by image, but its predictions were pruned.
        OutputsError: the outputs folder cannot be read or written.
    """
    run = replace(run_by_id(outputs, run_id), verified=verified)
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
        again = f"run --run-date {manifest.identity.run_date} again to quarantine and republish it"
        raise DamagedError(f"run {run_id}: expected it as it was published, got {'; '.join(problems)}; {again}")
    with staged_verdict(outputs, run_id, name) as staged:
        constants = {**manifest.identity.key_columns, "verdict_id": name}
        references = _compare_all(outputs, run, chosen, constants, staged)
        results = judge(gates, *manifest.counted(), references)
        staged.add(tables.COMPARISON, comparison_table(references, constants))
        staged.add(tables.GATES, _gate_rows(results, gates, constants))
        document = VerdictDocument(
            schema_version=tables.SCHEMA_VERSION,
            verdict_id=name,
            run_id=run_id,
            run_sha256=str(manifest.content.sha256),
            outcome=outcome_of(results),
            notes=(*_accepted(outputs, chosen), *_notes(manifest, references, results, gates_chosen)),
            references=tuple(_record(reference, chosen[reference.against].content) for reference in references),
            gates=asked,
            versions=versions(),
            judged_at=datetime.now(UTC),
            files=tuple(staged.files),
        )
        published = commit_verdict(outputs, staged, document)
    update_views(outputs, run_id)
    verdict = read_verdict(published, new=published.document.judged_at == document.judged_at)
    logger.info("run %s judged: %s", run_id, verdict.outcome)
    return verdict


def compare(before: Run, now: Run, against: str, look: Callable[[AlignedChunk], None] | None = None) -> Reference:
    """Compare two runs of the same data set and split.

    Args:
        before: the reference.
        now: the run to compare with it.
        against: the kind of reference, for messages.
        look: called with each aligned chunk of predictions, if the images are the same.

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
        same_images=old.identity.images_sha256 == new.identity.images_sha256,
        same_labels=old.identity.labels_sha256 == new.identity.labels_sha256,
        same_weights=old.identity.weights_sha256 == new.identity.weights_sha256,
    )
    if not (reference.same_images and reference.same_labels):
        (theirs, _), (ours, _) = old.counted(), new.counted()
        labelled = theirs.labelled and ours.labelled
        reference = replace(reference, comparisons=unpaired(theirs, ours) if labelled else ())
    if not reference.same_images:
        return reference
    pairs = Pairs.empty()
    for chunk in align(before, now):
        pairs += chunk.count()
        if look:
            look(chunk)
    if reference.same_labels and pairs.cells.any():
        reference = replace(reference, comparisons=pairs.comparisons())
    return replace(reference, changed=int(pairs.changed))


def _references(outputs: Outputs, run: Run, manifest: Manifest, gates_chosen: bool) -> Iterator[tuple[str, _Chosen]]:
    """The default references of a run, by kind."""
    name, earlier = run.name, _earlier_runs(outputs, run, manifest)
    if manifest.totals.labelled:  # the newest before it may be itself, from when its images had no labels yet
        earlier = [row for row in earlier if row["labelled"]] or earlier
    if gates_chosen:
        found = _newest_fit(outputs, earlier, ("pass",)) or _newest_fit(outputs, earlier, ("none",))
    else:
        found = _newest_fit(outputs, earlier, ("pass", "none"))
    if found is not None:
        yield found
    pinned = read_baselines(outputs).get(name.split_of)
    if pinned not in (None, name.run_id):
        yield BASELINE, _look_at(outputs, pinned)


def _earlier_runs(outputs: Outputs, run: Run, manifest: Manifest) -> list[dict[str, Any]]:
    """The runs of the same data set and split before this one, the newest by (run_date, published_at) first."""
    columns = ["run_id", "run_date", "published_at", "outcome", "standing", "counts", "labelled"]
    runs = stored_runs(outputs, run.name.run_id) if run.verified else current_views(outputs).runs
    rows = runs.select(columns)
    rows = rows.set_column(2, "published_at", rows["published_at"].cast(pa.timestamp("us"))).to_pylist()
    limit = run.name.run_date, manifest.published_at.astimezone(UTC).replace(tzinfo=None)
    earlier = {}
    for row in rows:
        name, order = RunName.parse(row["run_id"]), (row["run_date"].date(), row["published_at"])
        if name and name != run.name and name.is_of(run.name.dataset, run.name.split) and order < limit:
            earlier[order] = row
    return [earlier[order] for order in sorted(earlier, reverse=True)]


def _newest_fit(
    outputs: Outputs, earlier: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome]
) -> tuple[str, _Chosen] | None:
    """The first of some runs whose newest verdict has one of these outcomes, with its kind of reference.

    An accepted run stands as passed, and one that does not count is no reference.
    Prefers a usable run to a newer one that cannot be compared with: otherwise every later run would be inconclusive
    until somebody repaired that one.
    """
    unfit = None
    for row in earlier:
        outcome = "pass" if row["standing"] == "accepted" else row["outcome"]
        if outcome in outcomes and row["counts"]:
            against = LAST_PASSED if outcome == "pass" else EARLIER
            chosen = _look_at(outputs, row["run_id"])
            if chosen.problem is None:
                return against, chosen
            logger.warning("run %s cannot be a reference: %s", row["run_id"], chosen.problem)
            unfit = unfit or (against, chosen)
    return unfit


def _compare_all(
    outputs: Outputs, run: Run, chosen: Mapping[str, _Chosen], constants: Mapping[str, Any], staged: StagedVerdict
) -> tuple[Reference, ...]:
    """Compare with every reference, and write the table of changed predictions."""
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

            before = replace(run_by_id(outputs, run_id), verified=True)  # by _look_at
            references.append(compare(before, run, against, write))
    return tuple(references)


def _look_at(outputs: Outputs, run_id: str) -> _Chosen:
    """Look at a reference whole before a single flip is written: half a comparison is none.

    And before the verdict gets its id: a reference that cannot be read now may be readable later, which must give
    another verdict.
    """
    unknown = RunContent(run_id, None)
    try:
        before = run_by_id(outputs, run_id)
    except RunNotFoundError:
        return _Chosen(unknown, "it is no longer published")
    if problems := before.problems():
        again = f"run --run-date {before.name.run_date} again to quarantine and republish it"
        return _Chosen(unknown, f"it does not verify: {'; '.join(problems)}; {again}")
    manifest = before.manifest()
    if before.pruned():
        return _Chosen(manifest.content, "its predictions were pruned")
    try:
        manifest.counted()
    except DamagedError as error:  # written by an earlier version
        return _Chosen(manifest.content, str(error))
    return _Chosen(manifest.content)


def _accepted(outputs: Outputs, chosen: Mapping[str, _Chosen]) -> Iterator[str]:
    for against, reference in chosen.items():
        decision = None if reference.problem else known_decision(outputs, reference.content)
        if decision and decision.standing == "accepted":
            yield f"the {against} run {decision.run_id} was {decision.line}"


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
    yield from manifest.doubts
    if not totals.labelled:
        yield "no labels: correctness cannot be determined"
    if some := partly_labelled(totals.labelled, totals.images):
        yield some
    for reference in references:
        if reference.changed and not any(result.against == reference.against for result in results):
            yield (
                f"not judged: {reference.changed:,} of {totals.images:,} predictions changed against the "
                f"{reference.against} run, whose weights were others"
            )


def _record(reference: Reference, content: RunContent) -> ReferenceRecord:
    facts = {name: getattr(reference, name) for name in ReferenceRecord.model_fields.keys() - {"sha256"}}
    return ReferenceRecord(sha256=content.sha256, **facts)


def comparison_table(references: Sequence[Reference], constants: Mapping[str, Any]) -> pa.Table:
    """The table of comparisons with some references; `constants` are its other columns."""
    rows = [
        {"against": reference.against, "reference_run_id": reference.run_id, **row}
        for reference in references
        for row in comparison_rows(reference.comparisons)
    ]
    return _table(tables.COMPARISON, rows, constants)


def _gate_rows(results: Sequence[GateResult], gates: Gates, constants: Mapping[str, Any]) -> pa.Table:
    return _table(tables.GATES, [asdict(result) for result in results], {**constants, "confidence": gates.confidence})


def _table(table: tables.Table, rows: Sequence[Mapping[str, Any]], constants: Mapping[str, Any]) -> pa.Table:
    varying = {
        column.name: [row[column.name] for row in rows] for column in table.columns if column.name not in constants
    }
    return tables.build(table, {**tables.constants(table, constants, len(rows)), **varying})
