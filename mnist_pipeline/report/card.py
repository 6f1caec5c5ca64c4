"""Renders the model card of a weights file as Markdown."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.core.network import Architecture
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.errors import printable
from mnist_pipeline.report.terminal import percent


@dataclass(frozen=True)
class Card:
    """The content of a model card. Accuracies are in 0..1, the loss is in nats per image."""

    architecture: Architecture
    file_name: str
    sha256: str
    trained_on: Mapping[str, str]
    recipe: Mapping[str, Any]
    loss: float
    training_accuracy: float
    seconds: float
    tested_on: Mapping[str, str]
    tally: Tally
    versions: Mapping[str, str]


def render_card(card: Card) -> str:
    """Render the card as Markdown."""
    interval = wilson(card.tally.correct, card.tally.labelled)
    result = "no labels, not scored"
    if interval is not None:
        result = (
            f"**{percent(card.tally.accuracy)}** ({card.tally.correct:,} of {card.tally.labelled:,}), "
            f"95 % Wilson interval {percent(interval.low)} to {percent(interval.high)}"
        )
    name = re.sub(r"[`|]", "", printable(card.file_name))
    sections = {
        "Network": {
            "architecture": card.architecture,
            "parameters": f"{card.architecture.parameters:,}, float32",
            "file": f"`{name}`",
            "sha256": f"`{card.sha256}`",
        },
        "Training": {
            **card.trained_on,
            **{name.replace("_", " "): value for name, value in card.recipe.items()},
            "optimiser": "Adam, cosine schedule, decoupled weight decay, random shifts",
            "last epoch": f"loss {card.loss:.4f}, accuracy {percent(card.training_accuracy)} on shifted images",
            "time": f"{card.seconds:.0f} s on one core",
        },
        "Test": {**card.tested_on, "accuracy": result, "evaluated": "once, after the weights were written"},
        "Versions": card.versions,
    }
    lines = [f"# Model card: {name}", "", "Written by `mnist-pipeline train` together with the weights."]
    for title, facts in sections.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
        ]
    return "\n".join(lines) + "\n"
