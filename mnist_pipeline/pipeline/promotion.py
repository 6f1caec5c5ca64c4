"""Promotes candidate weights to current weights if the verdict passes: evaluates both on one split and judges them.

The two runs and the verdict are stored in `outputs/candidates`, apart from the nightly runs.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from mnist_pipeline import tables
from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.errors import DamagedError, SettingsError
from mnist_pipeline.index import try_index
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.evaluation import evaluate
from mnist_pipeline.pipeline.judging import Judged, judge_published, judge_run
from mnist_pipeline.pipeline.planning import current_network
from mnist_pipeline.pipeline.reporting import try_report
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.decisions import Decision
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts.promotions import Promotion, record_promotion
from mnist_pipeline.verdicts.reading import Verdict
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, load_weights, weights_sha256

logger = logging.getLogger(__name__)

CURRENT = "current weights"


@dataclass(frozen=True)
class Promoted:
    """The result for a candidate.

    `record` is None if it was not promoted, or was current already; `accepted` is not None if it was promoted by force.
    """

    weights_sha256: str
    previous_sha256: str
    previous_architecture: str
    judged: Judged
    record: Location | None
    accepted: Decision | None


def promote(settings: Settings, weights: Location, force: bool = False, progress: Progress = silent) -> Promoted:
    """Evaluate a candidate against the current weights, and make it current if the verdict passes.

    Args:
        settings: data set and split to evaluate on; its `weights` are ignored.
        weights: the candidate's file; `activation` of the settings is for it.
        force: promote it whatever the verdict; the record says so. Its run is then published among the nightly runs
            too, and accepted: later nights are compared with it, and not for ever with weights that are gone.
        progress: callback for downloads, shards and predictions.

    Raises:
        SettingsError: no gate of the data set compares the candidate with the current weights.
        DamagedError: the current weights are missing or altered; with `force` the shipped weights replace them.
        WeightsError: the candidate is rejected.
        PipelineError: a step failed; nothing is promoted then.
    """
    outputs, gates = Outputs.at(settings.outputs), settings.gates_of_dataset()
    compared = gates.max_loss is not None or gates.max_digit_loss is not None
    if not (compared or force):
        raise SettingsError(
            f"gates of {settings.dataset}: expected max_loss or max_digit_loss, got neither; without them no candidate "
            f"is compared with the current weights: set one under [gates.{settings.dataset}] in a config file"
        )
    candidate = load_weights(weights, settings.activation)
    settings = settings.model_copy(update={"activation": None})  # from here on weights are archived, and say it
    try:
        current, lost = current_network(outputs), False
    except DamagedError as error:
        if not force:  # force is the only way out if they cannot be restored
            raise
        logger.warning("%s; the candidate is compared with the shipped ones", error)
        current, lost = load_weights(SHIPPED_WEIGHTS), True
    apart = settings.model_copy(update={"outputs": outputs.path(layout.CANDIDATES)})
    candidates = Outputs.at(apart.outputs)
    # The files may change meanwhile.
    previous, archived = candidates.archive_weights(current), candidates.archive_weights(candidate)
    before = evaluate(apart.model_copy(update={"weights": previous}), progress)
    now = evaluate(apart.model_copy(update={"weights": archived}), progress)
    verdict = judge_run(candidates, now.run_id, gates, {CURRENT: before.run_id})
    shas = weights_sha256(candidate), before.identity.weights_sha256
    passed = compared and verdict.outcome == "pass"
    record = accepted = None
    if (lost or shas[0] != shas[1]) and (passed or force):
        archived = outputs.archive_weights(candidate)
        record = record_promotion(outputs, _promotion(*shas, now.architecture, verdict, forced=not passed))
        try_index(outputs)  # which names the weights
        if not passed:
            accepted = _accept_forced(settings.model_copy(update={"weights": archived}), verdict, progress)
    return Promoted(*shas, before.architecture, Judged(now, verdict, accepted=passed), record, accepted)


def _accept_forced(settings: Settings, verdict: Verdict, progress: Progress) -> Decision:
    published = judge_published(settings, evaluate(settings, progress)).published
    outputs = Outputs.at(settings.outputs)
    run = run_by_id(outputs, published.run_id)
    decision = decide(outputs, run, "accepted", f"promoted by force ({verdict.outcome})")
    try_report(outputs, run.name.run_id)
    return decision


def _promotion(weights: str, previous: str, architecture: str, verdict: Verdict, forced: bool) -> Promotion:
    return Promotion(
        schema_version=tables.SCHEMA_VERSION,
        weights_sha256=weights,
        previous_sha256=previous,
        architecture=architecture,
        run_id=verdict.run_id,
        verdict_id=verdict.verdict_id,
        outcome=verdict.outcome,
        forced=forced,
        promoted_at=datetime.now(UTC),
    )
