import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mnist_pipeline.core.images import (
    DIGITS,
    PIXELS,
    SIDE,
    TRANSFORM_VERSION,
    as_bytes,
    check_range,
    flatten,
    normalise,
    one_hot,
)
from mnist_pipeline.errors import ImagesError, LabelError

EVERY_PIXEL_VALUE = np.arange(256, dtype=np.uint8)


def test_normalise_divides_as_the_book_does() -> None:
    assert normalise(EVERY_PIXEL_VALUE).tobytes() == (EVERY_PIXEL_VALUE.astype(np.float32) / 255.0).tobytes()


def test_normalise_gives_the_float32_nearest_to_the_quotient() -> None:
    assert np.array_equal(normalise(EVERY_PIXEL_VALUE), (np.arange(256) / 255).astype(np.float32))


def test_normalise_spans_0_to_1_in_float32() -> None:
    scaled = normalise(EVERY_PIXEL_VALUE)
    assert scaled.dtype == np.float32
    assert (scaled[0], scaled[-1]) == (0, 1)
    assert (np.diff(scaled) > 0).all()


@settings(deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)))
def test_normalise_keeps_the_shape_and_leaves_its_input_alone(images: NDArray[np.uint8]) -> None:
    before = images.copy()
    assert normalise(images).shape == images.shape
    assert np.array_equal(images, before)


def test_a_changed_transform_has_a_changed_version() -> None:
    # The version is part of every shard's and run's identity. If this fails, change both, never the hash alone.
    tile = np.arange(2 * PIXELS, dtype=np.uint32).astype(np.uint8).reshape(2, SIDE, SIDE)
    little_endian = flatten(normalise(tile)).astype("<f4").tobytes()
    assert (TRANSFORM_VERSION, hashlib.sha256(little_endian).hexdigest()) == (
        "divide-by-255-float32-row-major/1",
        "3ad1a70178c2d7471d86509cf3652a5c43b620af6f00c8ee22b969148ef1c4d5",
    )


@pytest.mark.parametrize("shape", [(3, SIDE, SIDE), (3, 1, SIDE, SIDE), (0, SIDE, SIDE), (3, PIXELS)])
def test_flatten_lays_images_out_row_by_row(shape: tuple[int, ...]) -> None:
    images = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    flat = flatten(images)
    assert flat.shape == (shape[0], PIXELS)
    assert flat.dtype == images.dtype
    assert np.array_equal(flat.ravel(), images.ravel())


def test_flatten_copies_nothing() -> None:
    images = np.zeros((3, SIDE, SIDE), np.uint8)
    assert np.shares_memory(flatten(images), images)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)))
def test_one_hot_rows_have_a_single_one_at_the_label(digits: list[int]) -> None:
    labels = np.array(digits, np.uint8)
    rows = one_hot(labels)
    assert rows.shape == (len(digits), DIGITS)
    assert rows.dtype == np.float64
    assert (rows.sum(axis=1) == 1).all()
    assert np.array_equal(rows.argmax(axis=1), labels)


def test_a_label_that_is_no_digit_is_refused() -> None:
    with pytest.raises(LabelError, match="labels: expected digits 0-9, got 10"):
        one_hot(np.array([3, 10], np.uint8))


@given(hnp.arrays(np.uint8, (3, SIDE, SIDE)))
def test_as_bytes_inverts_normalise_and_flatten(images: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(as_bytes(flatten(normalise(images))), images, strict=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.uint64])
def test_pixels_in_the_range_of_their_type_pass_its_ends_included(dtype: type) -> None:
    images: NDArray[Any] = np.zeros((3, PIXELS), dtype)
    images[1] = 1 if np.issubdtype(dtype, np.floating) else 255
    check_range(images, str)
    check_range(images[:0], str)


@given(st.integers(0, 4), st.integers(0, PIXELS - 1), st.sampled_from([np.nan, np.inf, -1e-6, 1.0001, 255]))
def test_the_first_pixel_out_of_range_is_named(row: int, pixel: int, value: float) -> None:
    images = np.full((5, PIXELS), 0.5, np.float32)
    images[row, pixel] = value
    images[row + 1 :] = np.nan
    message = f"^image {row}: expected pixels in 0..1, got {images[row, pixel]} at pixel {pixel}; "
    with pytest.raises(
        ImagesError, match=message + ("divide by 255" if value in (1.0001, 255) else "correct the image")
    ):
        check_range(images, "image {}".format)
