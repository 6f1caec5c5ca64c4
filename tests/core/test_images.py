import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mnist_pipeline.core.images import (
    AS_GIVEN_VERSION,
    BY_TYPE,
    DIGITS,
    PIXELS,
    SIDE,
    TRANSFORM_VERSION,
    PixelFormat,
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
    check_range(images, str, int(images.max()))
    check_range(images[:0], str, 1)


def into_input(images: NDArray[Any], pixel_format: PixelFormat) -> NDArray[np.float32]:
    out = np.empty(images.shape, np.float32)
    pixel_format.to_input(images, "image {}".format, out)
    return out


BYTES = np.random.default_rng(0).integers(0, 256, (5, PIXELS), np.uint8)
BITS = BYTES // 128


@pytest.mark.parametrize(
    ("images", "pixel_format", "expected"),
    [
        (BYTES, BY_TYPE, normalise(BYTES)),
        (BYTES.astype(np.int64), PixelFormat(255), normalise(BYTES)),
        (BYTES.astype(np.float64), PixelFormat(255), normalise(BYTES)),
        (normalise(BYTES), PixelFormat(1), normalise(BYTES)),
        (BITS, PixelFormat(1), BITS.astype(np.float32)),
        (BITS.astype(np.int32), PixelFormat(1), BITS.astype(np.float32)),
        (255 - BYTES, PixelFormat(inverted=True), normalise(BYTES)),
        (255 - BYTES.astype(np.float32), PixelFormat(255, inverted=True), normalise(BYTES)),
        (1 - BITS, PixelFormat(1, inverted=True), BITS.astype(np.float32)),
        (1 - BITS.astype(np.float64), PixelFormat(inverted=True), BITS.astype(np.float32)),
        (BYTES, PixelFormat(inverted=False), normalise(BYTES)),
    ],
)
def test_whatever_pixels_mean_the_network_sees_mnists_form(
    images: NDArray[Any], pixel_format: PixelFormat, expected: NDArray[np.float32]
) -> None:
    np.testing.assert_array_equal(into_input(images, pixel_format), expected, strict=True)


@pytest.mark.parametrize("images", [BITS + 1, (BITS + 1).astype(np.int16), (BITS + 1).astype(np.float32)])
def test_pixels_above_the_given_scale_are_refused(images: NDArray[Any]) -> None:
    with pytest.raises(ImagesError, match=r"image 0: expected pixels in 0..1, got 2.*; correct the image"):
        into_input(images, PixelFormat(1))


def test_what_pixels_mean_is_in_the_version_of_the_transform() -> None:
    formats = [PixelFormat(scale, inverted) for scale in (1, 255) for inverted in (False, True)]
    assert len({each.transform_version(np.dtype(np.uint8)) for each in formats}) == 4
    for same, dtype in ((BY_TYPE, "uint8"), (PixelFormat(255, False), "float32")):
        assert same.transform_version(np.dtype(dtype)) == TRANSFORM_VERSION
    for same, dtype in ((BY_TYPE, "float64"), (PixelFormat(1), "uint8")):
        assert same.transform_version(np.dtype(dtype)) == AS_GIVEN_VERSION


def test_signed_bytes_are_known_by_their_range() -> None:
    with pytest.raises(ImagesError, match="signed bytes: store them as uint8"):
        into_input(BYTES.view(np.int8), BY_TYPE)


ADVICE = {
    np.inf: "correct the image, or leave it out",
    -1e-6: "pixels of -1..1: store",
    1.0001: "rounded above 1: clip them to 0..1",
    100: "correct the image, or leave it out; pixels of another range",
    255: "pixels of 0..255 need --pixel-scale 255",
    256: "correct the image, or leave it out; pixels of another range",
    -2: "standardised or signed pixels",
}


@given(st.integers(0, 4), st.integers(0, PIXELS - 1), st.sampled_from([*ADVICE]))
def test_the_first_pixel_out_of_range_is_named(row: int, pixel: int, value: float) -> None:
    images = np.full((5, PIXELS), 0.5, np.float32)
    images[row, pixel] = value
    images[row + 1 :] = np.nan
    message = f"^image {row}: expected pixels in 0..1, got {images[row, pixel]} at pixel {pixel}; "
    with pytest.raises(ImagesError, match=message + ADVICE[value]):
        check_range(images, "image {}".format, 1)
