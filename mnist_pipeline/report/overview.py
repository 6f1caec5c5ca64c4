"""Renders the pages over all nights: the index with the newest, and one page for each month. Values in, text out.

Static HTML that loads nothing; its script sorts and filters the lines that are there, and no page needs it. Drawn
without matplotlib: the pages are renewed with each night.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from itertools import groupby

from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.report import templates
from mnist_pipeline.report.links import line_of, month_page, report_page
from mnist_pipeline.report.scale import Scale
from mnist_pipeline.report.templates import template

DAYS = 90  # of each data set in the index; all of them are in the pages of the months
SHA_DIGITS = 8
HEAD_BYTES = 512


@dataclass(frozen=True)
class RunLine:
    """One run as the pages show it.

    Attributes:
        outcome: of the newest verdict; None if it was not judged.
        accuracy, low, high: 0..1 with the 95 % interval; None without labels.
        changed: changed predictions; None if it was compared with no run over the same images.
        weights_sha256: in hex; empty if the run cannot be read.
        weights: what they are known as, or empty.
        notes: what else is to be said of it, such as "withdrawn".
        is_of_date: whether it is the run of its date.
        has_report: whether its report exists.
        is_read: whether its manifest could be read; if not, nothing else is known of it.
    """

    run_id: str
    run_date: date
    outcome: Outcome | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    changed: int | None = None
    weights_sha256: str = ""
    weights: str = ""
    notes: tuple[str, ...] = ()
    is_of_date: bool = False
    has_report: bool = False
    is_read: bool = True

    @property
    def href(self) -> str:
        """Its report, or its line in the page of its month if it has none."""
        return report_page(self.run_id) if self.has_report else line_of(self.run_id)

    @property
    def word(self) -> str:
        """Its verdict in words; what is not known is no verdict."""
        return (self.outcome or "no verdict") if self.is_read else "cannot be read"


@dataclass(frozen=True)
class Gap:
    """Dates without any run, from the first to the last."""

    first: date
    last: date


@dataclass(frozen=True)
class Series:
    """Runs of one data set and split by run date, those of one date in any order; and the dates that are shown."""

    dataset: str
    split: str
    runs: tuple[RunLine, ...]
    first: date
    last: date

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.split}"

    @property
    def anchor(self) -> str:
        """The id of its section; a split has no hyphen, so two of them never share one."""
        return f"{self.dataset}-{self.split}"

    @cached_property
    def of_dates(self) -> dict[date, RunLine]:
        """The run that stands for each date: the one that counts, or any if none does."""
        best = sorted(self.runs, key=lambda run: (run.is_of_date, run.is_read, run.run_id))
        return {run.run_date: run for run in best}

    @property
    def newest(self) -> RunLine | None:
        """The run of the newest date."""
        return self.of_dates[max(self.of_dates)] if self.runs else None

    def beside(self, day: date) -> tuple[RunLine | None, RunLine | None]:
        """The runs that count for the dates before and after one."""
        counted = [run_date for run_date, run in self.of_dates.items() if run.is_of_date]
        before = max((run_date for run_date in counted if run_date < day), default=None)
        after = min((run_date for run_date in counted if run_date > day), default=None)
        return (self.of_dates[before] if before else None), (self.of_dates[after] if after else None)

    @property
    def months(self) -> Iterator[tuple[str, list[tuple[date, RunLine | None]]]]:
        """Each month, oldest first, with its days; None for a day without a run."""
        days = [self.first + timedelta(number) for number in range((self.last - self.first).days + 1)]
        for month, of_month in groupby(days, key=month_of):
            yield month, [(day, self.of_dates.get(day)) for day in of_month]

    @property
    def lines(self) -> Iterator[RunLine | Gap]:
        """The runs, newest first, and what is missing between them."""
        after = self.last + timedelta(1)
        for run in sorted(self.runs, key=lambda run: (run.run_date, run.is_of_date, run.run_id), reverse=True):
            if (missing := (after - run.run_date).days - 1) > 0:
                yield Gap(after - timedelta(missing), after - timedelta(1))
            yield run
            after = run.run_date
        if self.first < after:
            yield Gap(self.first, after - timedelta(1))

    @property
    def known(self) -> list[RunLine]:
        """The runs that count for their dates and have an accuracy, oldest first."""
        return [run for _, run in sorted(self.of_dates.items()) if run.is_of_date and run.accuracy is not None]

    @property
    def outcomes(self) -> set[Outcome | None]:
        """The verdicts that its dates have."""
        return {run.outcome for run in self.of_dates.values() if run.is_read}

    @property
    def scale(self) -> Scale:
        """Of accuracy; covers every interval."""
        return Scale.around([end for run in self.known for end in (run.low, run.high) if end is not None], 0.0, 1.0)

    def across(self, day: date) -> float:
        """The position of a date in a drawing, 0..1."""
        return (day - self.first).days / max((self.last - self.first).days, 1)

    def between(self, first: date, last: date) -> "Series":
        """The part of it in a range of dates, both included; gaps at its ends are kept."""
        first, last = max(first, self.first), min(last, self.last)
        return Series(
            self.dataset, self.split, tuple(run for run in self.runs if first <= run.run_date <= last), first, last
        )


def month_of(day: date) -> str:
    """The month of a date, as in 2026-11."""
    return f"{day:%Y-%m}"


def months_of(series: Sequence[Series]) -> list[str]:
    """All months with a run, newest first."""
    return sorted({month_of(run.run_date) for each in series for run in each.runs}, reverse=True)


@dataclass(frozen=True)
class Overview:
    """One of the pages.

    Attributes:
        title: its heading.
        series: what it shows.
        years: each year with its months, all newest first: links of the index.
        month: that of the page, as in 2026-11; None for the index.
    """

    title: str
    series: tuple[Series, ...]
    years: tuple[tuple[str, tuple[str, ...]], ...] = ()
    month: str | None = None

    @cached_property
    def version(self) -> str:
        """Another for any other content or look. It stands in the first HEAD_BYTES of the page."""
        return hashlib.sha256(f"{templates.fingerprint()} {self!r}".encode()).hexdigest()

    def render(self) -> str:
        """The page as HTML, to be written as UTF-8."""
        script = template("overview.js.jinja").render().strip()
        digest = base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode()
        return template("overview.html.jinja").render(
            page=self,
            script=script,
            digest=digest,
            month_page=month_page,
            report_page=report_page,
            sha_digits=SHA_DIGITS,
            days=DAYS,
        )


def index_of(series: Sequence[Series]) -> Overview:
    """The index: the newest dates of every data set, and links to all months."""
    shown = tuple(each.between(each.last - timedelta(DAYS - 1), each.last) for each in series)
    years = tuple((year, tuple(some)) for year, some in groupby(months_of(series), key=lambda month: month[:4]))
    return Overview("Nights", shown, years)


def overview_of(series: Sequence[Series], month: str) -> Overview:
    """The page of a month, as in 2026-11."""
    first = date.fromisoformat(f"{month}-01")
    last = (first + timedelta(31)).replace(day=1) - timedelta(1)
    of_month = [each for each in series if any(month_of(run.run_date) == month for run in each.runs)]
    return Overview(f"Nights of {month}", tuple(each.between(first, last) for each in of_month), month=month)
