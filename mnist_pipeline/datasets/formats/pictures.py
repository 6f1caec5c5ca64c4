"""Decodes single pictures, PNG or JPEG, with Pillow. Reads no files."""

import io
import warnings

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS, SIDE
from mnist_pipeline.errors import ImagesError, shown

FORMATS = ("PNG", "JPEG")
ADVICE = "convert it to an 8-bit grey picture of 28x28 pixels"


def decode_picture(data: bytes | pa.Buffer, name: str) -> NDArray[np.uint8]:
    """The pixels of an encoded picture: `[784]` uint8, 0..255.

    Args:
        data: the file.
        name: of the picture, in errors.

    Raises:
        ImagesError: it is no whole PNG or JPEG, or not 28x28 grey pixels of 8 bits, once.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.size != (SIDE, SIDE):
                width, height = picture.size
                raise ImagesError(f"{name}: expected {SIDE}x{SIDE} pixels, got {width}x{height}; {ADVICE}")
            if picture.mode not in ("L", "1"):
                raise ImagesError(f"{name}: expected grey pixels of 8 bits, got mode {shown(picture.mode)}; {ADVICE}")
            if getattr(picture, "n_frames", 1) != 1:
                raise ImagesError(f"{name}: expected one picture, got an animated one; {ADVICE}")
            return np.asarray(picture.convert("L"), np.uint8).reshape(PIXELS)
    except UnidentifiedImageError as error:
        raise ImagesError(f"{name}: expected a PNG or JPEG picture, got another file; replace it") from error
    except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
        if isinstance(error, ImagesError):
            raise
        raise ImagesError(f"{name}: expected a whole picture, got a damaged one ({error}); replace it") from error
