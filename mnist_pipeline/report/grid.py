"""Saves a grid of digits as a picture file, drawn by matplotlib."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.errors import OutputsError, SettingsError

CELL_INCHES = 1.15
LETTER_INCHES = 0.08  # of the title


def save_grid(
    path: Path, title: str, images: Sequence[NDArray[np.uint8]], captions: Sequence[str], columns: int
) -> None:
    """Draw images with their captions and save them in the format of the file's suffix.

    Args:
        path: a file that matplotlib can write: .png, .svg, .pdf.
        title: above the grid; two lines if there is a colon in it.
        images: n arrays `[28, 28]` uint8, 0..255.
        captions: n lines of text.
        columns: images per row.

    Raises:
        SettingsError: matplotlib does not know the suffix.
        OutputsError: the file cannot be written.
    """
    from mnist_pipeline.report.drawing import new_figure  # here, as it takes half a second

    rows = math.ceil(len(images) / columns)
    lines = title.split(": ", 1)
    width = max(columns * CELL_INCHES, max(map(len, lines)) * LETTER_INCHES)  # no title is cut
    figure = new_figure(figsize=(width, rows * CELL_INCHES * 1.3 + 0.2 + 0.2 * len(lines)), layout="constrained")
    figure.suptitle(":\n".join(lines), fontsize=9)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise SettingsError(f"picture {path}: expected a suffix among {', '.join(sorted(known))}; choose another name")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, caption in zip(figure.axes, images, captions, strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(caption.replace(" ", "\n", 1), fontsize=8, pad=2)  # the image_id has its own line
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise OutputsError(f"picture {path}: cannot be written ({error.strerror}); choose another file") from error
