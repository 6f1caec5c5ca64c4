import contextlib
import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from mnist_pipeline.datasets.formats.pictures.decoding import MAX_PICTURE_BYTES, decode_picture
from mnist_pipeline.errors import ImagesError, SettingsError
from tests.builders import random_images
from tests.pictures import encoded, png

(IMAGE,) = random_images(1)
GREY, JPEG = encoded(IMAGE), encoded(IMAGE, "JPEG")
# Of a few such pictures, Pillow decodes all pixels without their last bytes.
SPARSE = [encoded(each, "JPEG") for each in random_images(60) * (random_images(60, 1) > 150)]
ADVICE = "convert it to a grey picture of 28x28 pixels of 8 bits"


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def test_a_png_gives_its_bytes_and_a_jpeg_what_pillow_makes_of_it() -> None:
    np.testing.assert_array_equal(decode_picture(GREY, "a"), IMAGE.ravel(), strict=True)
    np.testing.assert_array_equal(decode_picture(png(IMAGE), "a"), IMAGE.ravel(), strict=True)
    with Image.open(io.BytesIO(JPEG)) as picture:
        np.testing.assert_array_equal(decode_picture(JPEG, "a"), np.asarray(picture).ravel(), strict=True)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_fewer_bits_is_spread_over_all_bytes(bits: int) -> None:
    values = IMAGE >> (8 - bits)
    places = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(places.reshape(28, -1).astype(np.uint8), axis=1)
    expected = values.ravel() * (255 // (2**bits - 1))
    np.testing.assert_array_equal(decode_picture(png(packed, bits), "a"), expected, strict=True)


def test_what_says_nothing_of_the_pixels_is_left_out() -> None:
    bomb = b"Comment\0\0" + zlib.compress(bytes(1 << 26))  # Pillow refuses a text of more than 1 MiB
    more = [(b"gAMA", struct.pack(">I", 45455)), (b"zTXt", bomb), (b"tEXt", b"a\0b"), (b"eXIf", exif(1).tobytes()[6:])]
    np.testing.assert_array_equal(decode_picture(png(IMAGE, more=more), "a"), IMAGE.ravel())
    np.testing.assert_array_equal(decode_picture(GREY + b"more", "a"), IMAGE.ravel())


REFUSED = {
    "no picture": (b"GIF89a", "expected a PNG or JPEG picture, got a file that starts with b'GIF89a'; replace it"),
    "empty": (b"", "expected a PNG or JPEG picture, got an empty file; replace it"),
    "too large": (GREY + bytes(MAX_PICTURE_BYTES), "expected a picture of at most 1,048,576 bytes, got 1,04"),
    "bomb": (png(IMAGE, size=(100_000, 100_000)), f"expected 28x28 pixels, got 100,000x100,000; {ADVICE}"),
    "JPEG of another size": (encoded(np.zeros((28, 30), np.uint8), "JPEG"), "expected 28x28 pixels, got 30x28; "),
    "16 bits": (png(np.zeros((28, 56), np.uint8), 16), f"expected grey pixels of 8 bits, got 16 bits; {ADVICE}"),
    "colour": (encoded(np.zeros((28, 28, 3), np.uint8)), "expected grey pixels of 8 bits, got colour; "),
    "JPEG in colour": (encoded(np.zeros((28, 28, 3), np.uint8), "JPEG"), "expected grey pixels, got mode 'RGB'; "),
    "palette": (png(IMAGE, colour=3), "expected grey pixels of 8 bits, got a palette; "),
    "alpha": (encoded(np.zeros((28, 28, 4), np.uint8)), "expected grey pixels of 8 bits, got colour with transparency"),
    "transparent": (png(IMAGE, more=[(b"tRNS", b"\0\0")]), "expected one opaque picture, got transparent pixels; "),
    "animated": (
        encoded(IMAGE, save_all=True, append_images=[Image.fromarray(255 - IMAGE)]),
        "expected one opaque picture, got an animation; ",
    ),
    "MPO": (
        encoded(IMAGE, "MPO", save_all=True, append_images=[Image.fromarray(255 - IMAGE)]),
        "expected one picture, got several in one file (MPO); ",
    ),
    "turned": (encoded(IMAGE, exif=exif(6)), "expected an upright picture, got orientation '6' in its EXIF; "),
    "JPEG turned": (encoded(IMAGE, "JPEG", exif=exif(3)), "expected an upright picture, got orientation '3' in its"),
    "no header": (GREY[:8] + GREY[33:], "expected "),
    "a changed bit": (GREY[:60] + b"~" + GREY[61:], "expected a whole picture, got a damaged one (a wrong checksum in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_pictures_are_refused(case: str) -> None:
    data, message = REFUSED[case]
    with pytest.raises(ImagesError, match=f"^some/a.png: {re.escape(message)}"):
        decode_picture(data, "some/a.png")


@pytest.mark.parametrize("data", [GREY, JPEG], ids=["PNG", "JPEG"])
def test_a_truncated_picture_is_refused_wherever_it_ends(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(ImagesError, match=r"^a: expected a"):
            decode_picture(data[:size], "a")


def test_a_jpeg_without_its_end_is_refused() -> None:
    def misses_none(data: bytes) -> bool:
        with Image.open(io.BytesIO(data)) as picture, contextlib.suppress(OSError):
            return picture.load() is not None
        return False

    accepted = [data[:-2] for data in SPARSE if misses_none(data[:-2])]
    assert accepted
    for data in accepted:
        with pytest.raises(ImagesError, match="its end is missing"):
            decode_picture(data, "a")


def test_a_png_with_any_bit_changed_is_refused() -> None:
    for index in range(len(GREY)):
        damaged = bytearray(GREY)
        damaged[index] ^= 1 << index % 8
        with pytest.raises(ImagesError, match=r"^a: expected "):
            decode_picture(bytes(damaged), "a")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data", "ignore:Truncated File")
def test_damage_of_a_jpeg_is_refused_or_passes_but_raises_nothing_else() -> None:
    random, data = np.random.default_rng(0), encoded(IMAGE, "JPEG", exif=exif(1))
    refused = 0
    for _ in range(2000):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        try:
            decode_picture(damaged.tobytes(), "a")
        except ImagesError:
            refused += 1
    assert 0 < refused < 2000


def test_pillow_must_not_be_told_to_make_up_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SettingsError, match="LOAD_TRUNCATED_IMAGES: expected False, got True; set it back"):
        decode_picture(GREY, "a")
