"""What `compare` finds."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Self

from pydantic import Field

from mnist_pipeline.cli.results.facts import Facts, Result
from mnist_pipeline.cli.results.runs import ComparisonFacts
from mnist_pipeline.report.statistics import InputStatistics


class SpreadFacts(Facts):
    """One property of the images of a run; ink of 0..1 or pixels, to the precision of the bins of `inputs.parquet`."""

    statistic: str = Field(description="as in inputs.parquet")
    images: int = Field(description="images that have it; those without ink have no centre")
    mean: float | None = Field(description="over these images; null if there are none, as the percentiles")
    low: float | None = Field(description="5 % percentile")
    median: float | None = Field(description="50 % percentile")
    high: float | None = Field(description="95 % percentile")


class InputFacts(Facts):
    """What the images of a run are like."""

    images: int
    blank: int = Field(description="images without ink")
    blank_share: float | None = Field(description="their share of all images, 0..1")
    spreads: tuple[SpreadFacts, ...] = Field(description="each property, in the order of the table")

    @classmethod
    def of(cls, found: InputStatistics | None) -> Self | None:
        """The facts, or None if they are not known."""
        return None if found is None else cls(**asdict(found), blank_share=found.blank_share)


class CompareResult(Result):
    """The comparison of two published runs."""

    before: str = Field(description="run_id of the run before")
    now: str = Field(description="run_id of the run now")
    same_images: bool = Field(description="whether both are over the same images")
    same_labels: bool = Field(description="whether both have the same labels")
    same_weights: bool = Field(description="whether both used the same weights")
    changed: int | None = Field(description="images whose prediction changed; null if the images differ")
    comparisons: tuple[ComparisonFacts, ...] = Field(
        description="all digits together, then each digit; empty without labels"
    )
    architecture_before: str = Field(description="widths and activation of the network of the run before")
    architecture_now: str = Field(description="of the network of the run now")
    inputs_before: InputFacts | None = Field(
        description="what the images of the run before are like; null if an earlier version published it"
    )
    inputs_now: InputFacts | None = Field(description="the same of the run now")

    @property
    def last_words(self) -> Iterable[str]:
        return ("different images" if self.changed is None else f"predictions changed: {self.changed}",)
