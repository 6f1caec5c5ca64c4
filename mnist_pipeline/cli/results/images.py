"""What `images` and `open` find."""

from collections.abc import Iterable, Sequence

from pydantic import Field

from mnist_pipeline.cli.results.facts import Facts, Result
from mnist_pipeline.report.picture import Picture


class ImageFacts(Facts):
    """An image with its prediction, and with --changed the one before."""

    image_id: int = Field(description="position of the image in its split")
    image_key: str | None = Field(description="the data set's own name of the image; null if it has none")
    label: int | None = Field(description="digit it shows; null without a label")
    prediction: int = Field(description="digit predicted")
    confidence: float = Field(description="probability of that digit, 0..1")
    before: int | None = Field(description="digit predicted by the other run; null without --changed")
    confidence_before: float | None = Field(description="probability of that digit then, 0..1")
    direction: str | None = Field(description='"lost", "gained", "still wrong" or "changed"; null without --changed')


class ImagesResult(Result):
    """Images of a data set or of a run."""

    run_id: str | None = Field(description="the run they are of; null if they were predicted now")
    dataset: str = Field(description="data set of the images")
    split: str = Field(description="split of the data set")
    total: int | None = Field(description="images of the run that the flags choose, with those beyond --count")
    images: tuple[ImageFacts, ...] = Field(description="the chosen images, at most --count")
    saved: str | None = Field(description="the picture that --save wrote")

    @property
    def last_words(self) -> Iterable[str]:
        return (str(each.image_id) for each in self.images)


class OpenResult(Result):
    """A page for a browser."""

    page: str = Field(description="the HTML file")
    opened: bool = Field(description="whether a browser was found for it")

    @property
    def last_words(self) -> Iterable[str]:
        return (self.page,)


def facts_of(pictures: Sequence[Picture]) -> tuple[ImageFacts, ...]:
    """The pictures without their pixels."""
    return tuple(ImageFacts(**{name: getattr(each, name) for name in ImageFacts.model_fields}) for each in pictures)
