"""What the other commands find: those that check, decide, prepare and operate."""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Literal

from pydantic import Field

from mnist_pipeline.cli.results.facts import Facts, Result
from mnist_pipeline.cli.results.runs import RunFacts
from mnist_pipeline.core.gates import Outcome

State = Literal["verified", "damaged", "unreadable"]


class FilledDate(Facts):
    """A date without a run that counts, and what became of it."""

    run_date: date
    run_id: str | None = Field(default=None, description="the run published by --direct")
    outcome: Outcome | None = Field(default=None, description="of its verdict")
    flow_run_id: str | None = Field(default=None, description="the flow run that was started without --direct")
    state: str | None = Field(default=None, description="with --wait the final state, such as Completed")
    message: str | None = Field(default=None, description="with --wait what that state says")


class BackfillResult(Result):
    """The dates of a range that had no run that counts."""

    outputs: str = Field(description="the folder that was looked into")
    dates: tuple[FilledDate, ...] = Field(description="the dates that were missing, as far as the command came")

    @property
    def last_words(self) -> Iterable[str]:
        return (f"{each.run_date}: {each.run_id or each.flow_run_id}" for each in self.dates)


class CheckedRun(Facts):
    """A run whose files were compared with its manifest."""

    run_id: str
    state: State = Field(description="unreadable: nothing is known of its bytes")
    problems: tuple[str, ...] = Field(description="what is damaged, or why it cannot be read")
    pruned_at: datetime | None
    repaired: bool = Field(description="whether --repair published it again")


class CheckedKind(Facts):
    """One kind of files beside the runs."""

    what: str = Field(description="verdicts, decisions, records that runs count, shards or weights")
    checked: int = Field(description="how many there are")
    problems: tuple[str, ...] = Field(description="the damaged ones, and why")
    unread: tuple[str, ...] = Field(description="those that cannot be read, and why")


class VerifyResult(Result):
    """What was verified."""

    runs: tuple[CheckedRun, ...] = Field(description="the runs that were asked for")
    unfinished_repairs: tuple[str, ...] = Field(description="run_ids of repairs that were begun and are not complete")
    beside: tuple[CheckedKind, ...] = Field(description="what is beside the runs; empty if one run was asked for")

    @property
    def last_words(self) -> Iterable[str]:
        return () if self.error else (f"runs verified: {len(self.runs)}",)


class DecisionResult(Result):
    """What was decided of a run."""

    run_id: str
    standing: Literal["accepted", "withdrawn"]
    reason: str = Field(description="why, in the person's words")
    decided_at: datetime = Field(description="when")

    @property
    def last_words(self) -> Iterable[str]:
        return (f"{self.run_id}: {self.standing}",)


class PromoteResult(Result):
    """A candidate, judged against the current weights."""

    weights_sha256: str = Field(description="of the candidate")
    previous_sha256: str = Field(description="of the weights that were current before")
    architecture: str = Field(description="widths of the layers of the candidate, and activation of the hidden ones")
    previous_architecture: str = Field(description="the same of the weights that were current before")
    promoted: bool = Field(description="whether the candidate was made the current weights by this command")
    record: str | None = Field(description="file of the promotion; null without one")
    run: RunFacts = Field(description="the run of the candidate, in outputs/candidates")
    accepted_run: str | None = Field(description="with --force, run_id of its run among the nights, accepted")

    @property
    def last_words(self) -> Iterable[str]:
        return (f"{self.weights_sha256}: {'promoted' if self.promoted else 'not promoted'}",)


class Pin(Facts):
    """The pinned run of a data set and split."""

    dataset: str
    split: str
    run_id: str | None = Field(description="null if none is pinned")


class BaselineResult(Result):
    """The pinned runs: of `baseline show` all, of `set` and `clear` the one that was changed."""

    outputs: str = Field(description="the outputs folder")
    baselines: tuple[Pin, ...] = Field(description="by data set and split")

    @property
    def last_words(self) -> Iterable[str]:
        return (f"{each.dataset}/{each.split}: {each.run_id or 'none'}" for each in self.baselines)


class ReportResult(Result):
    """A report that was written."""

    run_id: str
    report: str = Field(description="the HTML file")

    @property
    def last_words(self) -> Iterable[str]:
        return (self.report,)


class ReindexResult(Result):
    """Views and reports that were rebuilt."""

    runs: int = Field(description="runs that were indexed")
    problems: tuple[str, ...] = Field(description="what could not be, and why")

    @property
    def last_words(self) -> Iterable[str]:
        return (f"runs indexed: {self.runs}",)


class SourceFileFacts(Facts):
    """A source file in the cache."""

    path: str = Field(description="where it is")
    sha256: str = Field(description="of its bytes")


class FetchResult(Result):
    """Source files that were fetched, or were there, and verified."""

    files: tuple[SourceFileFacts, ...] = Field(description="images and labels of each split")

    @property
    def last_words(self) -> Iterable[str]:
        return (each.path for each in self.files)


class TrainResult(Result):
    """Weights that were trained."""

    weights: str = Field(description="the file of the weights")
    model_card: str = Field(description="the file of the model card")
    architecture: str = Field(description="widths of the layers of the network, and activation of the hidden ones")
    parameters: int = Field(description="how many numbers the network consists of")
    labelled: int = Field(description="images of the test split with a label")
    correct: int = Field(description="of these, predicted right")
    accuracy: float | None = Field(description="correct / labelled; null without labels")

    @property
    def last_words(self) -> Iterable[str]:
        return (self.weights,)


class CheckFacts(Facts):
    """A check of doctor."""

    what: str = Field(description="what was looked at")
    state: Literal["ok", "note", "failed"] = Field(description="note: not looked at, or chosen by a person")
    found: str = Field(description="what was found")
    advice: str | None = Field(description="the next command; null if there is none")


class DoctorResult(Result):
    """Everything a nightly run needs."""

    checks: tuple[CheckFacts, ...] = Field(description="in the order in which to fix them")

    @property
    def last_words(self) -> Iterable[str]:
        failed = sum(check.state == "failed" for check in self.checks)
        return (f"checks failed: {failed} of {len(self.checks)}",)


class ChangeFacts(Facts):
    """An object on the Prefect server."""

    what: str = Field(description="the object")
    state: str = Field(description="what set-up did to it; paused and left are what it left alone")


class SetupResult(Result):
    """What is set up on the Prefect server."""

    prefect_file: str = Field(description="the prefect.yaml that was read")
    outputs: str = Field(description="where nights are published")
    changes: tuple[ChangeFacts, ...] = Field(description="each object")
    notified: bool = Field(description="whether somebody hears of failed runs")

    @property
    def last_words(self) -> Iterable[str]:
        return (f"{each.state}: {each.what}" for each in self.changes)


class CredentialsResult(Result):
    """The file with the password of the Prefect server; the password itself is not printed."""

    path: str = Field(description="the file")
    made: bool = Field(description="false if it was there before")

    @property
    def last_words(self) -> Iterable[str]:
        return (self.path,)


class PruneDecisionFacts(Facts):
    """What becomes of a run."""

    run_id: str
    action: Literal["keep", "mark", "wait", "delete", "gone", "restore"] = Field(
        description="mark: given up from now on; wait: marked, readers have time; gone: deleted before; "
        "restore: marked, and kept after all"
    )
    why: str = Field(description="the reason")
    size_bytes: int = Field(description="what the run takes")
    prunable_bytes: int = Field(description="what of it are predictions and report")


class OrphanFacts(Facts):
    """Files that nothing needs."""

    path: str = Field(description="folder or file")
    size_bytes: int = Field(description="what it takes")


class PruneResult(Result):
    """What a prune does, or would do without --apply."""

    applied: bool = Field(description="false if nothing was changed")
    runs: tuple[PruneDecisionFacts, ...] = Field(description="each run, the oldest first")
    unused_shards: tuple[OrphanFacts, ...] = Field(description="sets of shards that no run needs, to be deleted")
    orphans: tuple[OrphanFacts, ...] = Field(description="what killed attempts left behind, to be deleted")
    left_alone: tuple[str, ...] = Field(description="what could not be done, and why")
    frees_bytes: int = Field(description="what --apply gives back, as planned")
    use_bytes_before: dict[str, int] = Field(description="disk use by top-level name, the largest first")
    use_bytes_after: int | None = Field(description="disk use in all; null without --apply")

    @property
    def last_words(self) -> Iterable[str]:
        actions = [run.action for run in self.runs]
        counts = ", ".join(f"{action} {actions.count(action)}" for action in ("mark", "delete", "restore"))
        return (f"{'done' if self.applied else 'planned'}: {counts}",)


class VersionResult(Result):
    """The version of the package."""

    version: str = Field(description="as in `pip show mnist-pipeline`")

    @property
    def last_words(self) -> Iterable[str]:
        return (self.version,)
