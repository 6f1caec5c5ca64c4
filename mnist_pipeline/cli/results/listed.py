"""What `runs` finds."""

from collections.abc import Iterable
from datetime import date, datetime

from pydantic import Field

from mnist_pipeline.cli.results.facts import ARCHITECTURE, Facts, Result
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.runs.decisions import Standing


class ListedRun(Facts):
    """A published run in a few numbers; null where its manifest cannot be read."""

    run_id: str
    run_date: date
    dataset: str
    split: str
    images: int | None = None
    labelled: int | None = None
    correct: int | None = None
    accuracy: float | None = None
    outcome: Outcome | None = Field(default=None, description="of the newest verdict; null if it was not judged yet")
    standing: Standing | None = None
    counts: bool | None = Field(default=None, description="whether it is, or was, the run of its date")
    is_of_date: bool | None = Field(default=None, description="whether it is that now: the newest that counts")
    weights_sha256: str | None = None
    architecture: str | None = Field(default=None, description=ARCHITECTURE)
    published_at: datetime | None = None
    problem: str | None = Field(default=None, description="why its manifest cannot be read")


class RunsResult(Result):
    """Published runs, by run_date, then by the time of publication."""

    outputs: str = Field(description="the outputs folder")
    runs: tuple[ListedRun, ...] = Field(description="the runs that were asked for, the newest last")

    @property
    def last_words(self) -> Iterable[str]:
        return (run.run_id for run in self.runs)
