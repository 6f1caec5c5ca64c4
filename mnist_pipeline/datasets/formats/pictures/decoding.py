"""Decodes single pictures, PNG or JPEG, with Pillow. Reads no files.

Threats: a few bytes that decode to gigabytes, and damage that goes unnoticed. Size and kind are checked before pixels
are decoded, and every checksum of a PNG here: Pillow skips those of the pixels. Its own decoders are called and not
`Image.open`, which warns of some pictures: warnings can only be caught for all threads at once. Of a PNG the chunks
that say nothing of the pixels, such as compressed texts, are left out. Accepted: JPEG has no checksums.
"""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS, SIDE
from mnist_pipeline.errors import ImagesError, SettingsError, printable, shown

ENDINGS = (".png", ".jpg", ".jpeg")
MAX_PICTURE_BYTES = 1 << 20
ADVICE = f"convert it to a grey picture of {SIDE}x{SIDE} pixels of 8 bits"
PNG, JPEG, JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd9"
ORIENTATION = 0x0112  # the tag of EXIF
COLOURS = {2: "colour", 3: "a palette", 4: "grey with transparency", 6: "colour with transparency"}
REFUSED = {b"acTL": "an animation", b"tRNS": "transparent pixels"}  # by the type of the chunk
# What Pillow raises on damaged files.
DAMAGE = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, EOFError,
    struct.error, zlib.error, Warning,
)  # fmt: skip


def decode_picture(data: bytes | pa.Buffer, name: str) -> NDArray[np.uint8]:
    """The pixels of an encoded picture: `[784]` uint8, 0..255; grey of fewer bits is spread over that range.

    Args:
        data: the file.
        name: of the picture, in errors.

    Raises:
        ImagesError: it is no whole PNG or JPEG, or not 28x28 grey pixels of at most 8 bits, once and upright.
        SettingsError: Pillow is told in this process to make up what is missing.
    """
    from PIL import ImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    if len(data) > MAX_PICTURE_BYTES:
        raise ImagesError(
            f"{name}: expected a picture of at most {MAX_PICTURE_BYTES:,} bytes, got {len(data):,}; {ADVICE}"
        )
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SettingsError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES: expected False, got True; set it back")
    data = bytes(data)
    decoder: Callable[[io.BytesIO], ImageFile.ImageFile]
    if data.startswith(PNG):
        decoder, data = PngImageFile, _pixel_chunks(data, name)
    elif data.startswith(JPEG):
        decoder = JpegImageFile
        if JPEG_END not in data:
            raise _damaged(name, "its end is missing")
    else:
        got = f"a file that starts with {data[:8]!r}" if data else "an empty file"
        raise ImagesError(f"{name}: expected a PNG or JPEG picture, got {got}; replace it")
    try:
        picture = decoder(io.BytesIO(data))
        _require_size(picture.size, name)
        if picture.mode not in ("L", "1"):
            raise ImagesError(f"{name}: expected grey pixels, got mode {shown(picture.mode)}; {ADVICE}")
        if "mp" in picture.info:
            raise ImagesError(f"{name}: expected one picture, got several in one file (MPO); {ADVICE}")
        pixels = (picture if picture.mode == "L" else picture.convert("L")).tobytes()
        if "exif" in picture.info and (turned := picture.getexif().get(ORIENTATION, 1)) != 1:
            raise ImagesError(
                f"{name}: expected an upright picture, got orientation {shown(turned)} in its EXIF; turn its pixels"
            )
    except ImagesError:
        raise
    except DAMAGE as error:
        raise _damaged(name, error) from error
    return np.frombuffer(pixels, np.uint8, PIXELS)


def _pixel_chunks(data: bytes, name: str) -> bytes:
    """A PNG without the chunks that do not matter here.

    Raises:
        ImagesError: a checksum is wrong, something is missing, or it is not grey, animated or transparent.
    """
    kept, start, kind = [PNG], len(PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, start) if start + 8 <= len(data) else (0, b"")
        stop = start + length + 12
        if not kind or stop > len(data):
            raise _damaged(name, "its end is missing")
        if zlib.crc32(data[start + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop]):
            raise _damaged(name, f"a wrong checksum in chunk {kind!r}")
        if kind in REFUSED:
            raise ImagesError(f"{name}: expected one opaque picture, got {REFUSED[kind]}; {ADVICE}")
        if kind == b"IHDR" and length == 13:
            width, height, bits, colour = struct.unpack_from(">IIBB", data, start + 8)
            _require_size((width, height), name)
            if colour or bits > 8:
                got = COLOURS.get(colour, "something else") if colour else f"{bits} bits"
                raise ImagesError(f"{name}: expected grey pixels of 8 bits, got {got}; {ADVICE}")
        if kind[:1].isupper() or kind == b"eXIf":
            kept.append(data[start:stop])
        start = stop
    return b"".join(kept)


def _require_size(size: tuple[int, int], name: str) -> None:
    if size != (SIDE, SIDE):
        width, height = size
        raise ImagesError(f"{name}: expected {SIDE}x{SIDE} pixels, got {width:,}x{height:,}; {ADVICE}")


def _damaged(name: str, problem: object) -> ImagesError:
    return ImagesError(f"{name}: expected a whole picture, got a damaged one ({printable(problem)}); replace it")
