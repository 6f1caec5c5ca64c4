"""Pictures as other tools write them, for tests."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Chunk = tuple[bytes, bytes]


def encoded(image: NDArray[np.uint8], form: str = "PNG", **how: Any) -> bytes:
    """One picture by Pillow; `how` is for its `save`."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **how)
    return file.getvalue()


def png(
    packed: NDArray[np.uint8],
    bits: int = 8,
    colour: int = 0,
    more: Sequence[Chunk] = (),
    size: tuple[int, int] = (28, 28),
) -> bytes:
    """A PNG by hand.

    Args:
        packed: `[28, n]` bytes, the rows as they are stored.
        bits: of each number.
        colour: 0 is grey, 2 colour, 3 a palette, 4 and 6 with transparency.
        more: other chunks, before the pixels.
        size: width and height that its header says.
    """
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
