import json
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS, SIDE, flatten, normalise
from mnist_pipeline.datasets.image_bins import BOUNDS, CENTRES, HALF_INK, ImageBins, doubts, require_meant
from mnist_pipeline.errors import ImagesError
from tests.builders import random_images


def drawn(rows: int = 40, ink: float = 0.13, seed: int = 0) -> NDArray[np.uint8]:
    """`[rows, 784]` uint8 like MNIST's: paper of 0 and, on that share of the pixels, ink up to 255."""
    random = np.random.default_rng(seed)
    images = np.where(random.random((rows, PIXELS)) < ink, random.integers(200, 256, (rows, PIXELS)), 0)
    images[:, 0] = 255
    return images.astype(np.uint8)


def binned(images: NDArray[np.uint8]) -> ImageBins:
    return ImageBins.count(normalise(images))


def refused(bins: ImageBins, message: str, inverted: bool | None = None) -> None:
    with pytest.raises(ImagesError, match=re.escape(f"mine/test: {message}")):
        require_meant(bins, "mine/test", inverted)


# Counting


def test_images_are_counted_by_mean_and_largest_pixel() -> None:
    bins = binned(np.array([[0] * PIXELS, [255] * PIXELS, [7] * PIXELS, [100, 255] * (PIXELS // 2)], np.uint8))
    assert {int(level): int(bins.mean[level]) for level in bins.mean.nonzero()[0]} == {0: 1, 7: 1, 177: 1, 255: 1}
    assert {int(level): int(bins.largest[level]) for level in bins.largest.nonzero()[0]} == {0: 1, 7: 1, 255: 2}
    assert (bins.images, bins.blank, bins.faint, bins.largest_pixel) == (4, 1, 1, 255)
    assert ImageBins.empty().mean_ink == 0


def naive(image: NDArray[np.uint8]) -> dict[str, int]:
    """The bin of each property of one image, by the book."""
    levels: NDArray[Any] = image.reshape(SIDE, SIDE).astype(object)  # integers of Python
    ink, full = levels.sum(), levels >= HALF_INK
    found = {"mean": ink // PIXELS, "largest": levels.max()}
    for axis, centre, extent in ((0, "centre_x", "width"), (1, "centre_y", "height")):
        lines = np.flatnonzero(full.any(axis=axis))
        found[extent] = lines.max() - lines.min() + 1 if len(lines) else 0
        if ink:
            position = Fraction(sum(levels.sum(axis=axis) * np.arange(SIDE)), ink)
            (found[centre],) = (
                number
                for number in range(CENTRES)
                if -Fraction(1, 4) <= position - Fraction(number, 2) < Fraction(1, 4)
            )
    return found


def of_random_shape(random: np.random.Generator) -> NDArray[np.uint8]:
    """`[784]` uint8: a rectangle of any size and place, with ink up to any level on any share of its pixels."""
    image = np.zeros((SIDE, SIDE), np.uint8)
    (top, bottom), (left, right) = (np.sort(random.integers(0, SIDE + 1, 2)) for _ in range(2))
    shape = bottom - top, right - left
    ink = random.integers(0, random.integers(1, 257), shape) * (random.random(shape) < random.random())
    image[top:bottom, left:right] = ink
    return image.reshape(PIXELS)


def test_each_image_is_in_the_bins_that_exact_arithmetic_gives() -> None:
    random = np.random.default_rng(0)
    edges = np.zeros((5, PIXELS), np.uint8)
    edges[0], edges[1, 0], edges[2, -1], edges[3, [0, 28]], edges[4, [3, 90]] = 255, 255, 128, (1, 3), (127, 128)
    images = np.concatenate([edges, [of_random_shape(random) for _ in range(300)]])
    for image in images:
        found = {name: each.nonzero()[0].tolist() for name, each in binned(image[None]).arrays()}
        assert found == {name: [] for name in found} | {name: [place] for name, place in naive(image).items()}
    assert binned(images).add_up


def test_the_order_of_pixels_in_memory_does_not_matter() -> None:
    images = normalise(flatten(random_images(30)))
    assert ImageBins.count(np.asfortranarray(images)).to_json() == ImageBins.count(images).to_json()


@given(st.integers(0, 255), st.integers(0, PIXELS))
def test_the_mean_is_exact_to_the_level(value: int, pixels: int) -> None:
    image = np.zeros((1, PIXELS), np.uint8)
    image[0, :pixels] = value
    assert binned(image).mean[value * pixels // PIXELS] == 1


def test_bins_of_parts_are_those_of_the_whole_and_survive_json() -> None:
    images = flatten(random_images(30))
    parts = [binned(images[:7]), binned(images[7:]), ImageBins.empty()]
    whole = json.dumps(binned(images).to_json())
    assert json.dumps(ImageBins.total(parts).to_json()) == whole
    assert json.dumps(ImageBins.from_json(json.loads(whole)).to_json()) == whole


WHOLE: dict[str, Any] = {name: {} for name in BOUNDS}
NO_COUNTS: list[Any] = [{"256": 1}, {"-1": 1}, {"x": 1}, {"0": -1}, {"0": 1.0}, {"0": True}, {"0": 10**30}, [], [1], 1]


@pytest.mark.parametrize(
    "document",
    [{}, {"mean": {}, "largest": {}}, *(WHOLE | {"largest": each} for each in NO_COUNTS), WHOLE | {"width": {"29": 1}}],
)
def test_bins_that_are_none_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        ImageBins.from_json(document)


# Certain mistakes


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("top", [1, 9, 15, 127])
def test_pixels_of_another_range_are_refused(top: int, rows: int) -> None:
    images = np.rint(drawn(rows) * (top / 255)).astype(np.uint8)
    advice = "integers of 0 and 1 need" if top == 1 else "pixels of another range need to be rescaled"
    refused(binned(images), f"expected full ink somewhere, got at most {top} of 255 in {rows} images; {advice}")


@pytest.mark.parametrize("ink", [0.08, 0.13, 0.29])  # thin digits, MNIST, Fashion-MNIST
def test_white_paper_is_refused_but_where_it_is_meant(ink: float) -> None:
    bins = binned(255 - drawn(ink=ink))
    refused(bins, f"expected white ink on black paper, got a mean pixel of {bins.mean_ink:.2f} in 40 images; black dig")
    require_meant(bins, "mine/test", inverted=False)
    refused(bins, "expected white ink on black paper, got a mean pixel of", inverted=True)
    with pytest.raises(ImagesError, match=r"; leave --invert out$"):
        require_meant(bins, "mine/test", inverted=True)


def test_a_few_good_images_do_not_hide_that_most_are_of_another_range_or_inverted() -> None:
    few = binned(drawn(3))
    refused(
        few + binned(drawn(40) // 255), "expected full ink somewhere, got none in 40 of 43 images; pixels of another"
    )
    half_white = binned(drawn(19)) + binned(255 - drawn(21))
    refused(half_white, "expected white ink on black paper, got a mean pixel of 0.5")
    require_meant(half_white, "mine/test", inverted=False)


def test_a_single_image_on_white_paper_is_refused() -> None:
    refused(binned(255 - drawn(1)), "expected white ink on black paper, got a mean pixel of 0.9")


def test_blank_images_alone_are_refused() -> None:
    refused(binned(np.zeros((3, PIXELS), np.uint8)), "expected ink, got 3 images that are blank; check how")


@pytest.mark.parametrize("ink", [0.08, 0.13, 0.19, 0.29, 0.45])
@pytest.mark.parametrize("rows", [1, 10, 40])
def test_what_the_published_sets_show_is_neither_refused_nor_doubtful(ink: float, rows: int) -> None:
    bins = binned(drawn(rows, ink))
    require_meant(bins, "mine/test", None)
    assert doubts(bins) == ()


@pytest.mark.parametrize("ink", [0.6, 0.75])  # the largest mean of an image of Fashion-MNIST is 0.752
def test_a_few_images_full_of_ink_are_not_refused(ink: float) -> None:
    require_meant(binned(drawn(9, ink)), "mine/test", None)


# Doubts


def mixed(part: NDArray[np.uint8]) -> ImageBins:
    return binned(drawn(99)) + binned(part)


@pytest.mark.parametrize(
    ("bins", "doubt"),
    [
        (binned(drawn(ink=0.67)), "a mean pixel of 0.60: are they black on white?"),
        (binned(drawn(9, ink=0.8)), "a mean pixel of 0.71: are they black on white?"),
        (binned(drawn(ink=0.01)), "a mean pixel of 0.010: is there any ink?"),
        (binned(np.minimum(drawn(), 200)), "no pixel above 200 of 255: is their range another?"),
        (mixed(np.zeros((1, PIXELS), np.uint8)), "1 blank"),
        (mixed(255 - drawn(2)), "2 on white paper"),
        (mixed(drawn(2) // 255), "2 with less than half of full ink"),
    ],
)
def test_what_is_doubtful_is_said_and_not_refused(bins: ImageBins, doubt: str) -> None:
    require_meant(bins, "mine/test", None)
    assert doubts(bins) == (f"doubtful images: {doubt}",)
