"""One image that is shown to a person, with what was predicted of it."""

from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

CAPTION = "#image_id, label -> prediction if another, confidence"
CAPTION_OF_CHANGED = "#image_id, label: prediction before -> now, confidence now"


@dataclass(frozen=True, eq=False)
class Picture:
    """One image and its prediction.

    Attributes:
        image_id: its position in the split.
        pixels: `[28, 28]` uint8, 0..255; None if they cannot be had any more.
        label: 0..9; None if the image has none.
        prediction: 0..9.
        confidence: of the prediction, 0..1.
        before, confidence_before: of the reference; changed predictions only.
        direction: "lost", "gained", "still wrong" or "changed"; changed predictions only.
        image_key: the data set's own name of the image; None if it has none.
    """

    image_id: int
    pixels: NDArray[np.uint8] | None
    label: int | None
    prediction: int
    confidence: float
    before: int | None = None
    confidence_before: float | None = None
    direction: str | None = None
    image_key: str | None = None

    @property
    def caption(self) -> str:
        """In the form of `CAPTION` or `CAPTION_OF_CHANGED`: `#247 4 -> 6 (81 %)`, `#247 4: 4 -> 6 (81 %)`."""
        found = f"{self.prediction} ({sure(self.confidence)})"
        if self.before is not None:
            found = f"{self.before} -> {found}"
            return f"#{self.image_id} {found}" if self.label is None else f"#{self.image_id} {self.label}: {found}"
        expected = "" if self.label in (None, self.prediction) else f"{self.label} -> "
        return f"#{self.image_id} {expected}{found}"


def sure(confidence: float) -> str:
    """A confidence 0..1 as a percentage; 100 % only if it is 1, since a mistake at 99.98 % matters."""
    if 0.995 <= confidence < 1.0:
        return f"{floor(10_000 * confidence) / 100:.2f} %"
    return f"{100 * confidence:.0f} %"
