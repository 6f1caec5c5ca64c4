"""Checks what else carries a checksum below the outputs folder than runs.

Verdicts, decisions, records that runs count, shards, weights. Changes nothing.
"""

from collections.abc import Iterator

from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import read_counted
from mnist_pipeline.runs.decisions import newest_decision
from mnist_pipeline.runs.manifest import RunContent
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts.records import read_whole

Checked = tuple[Location, str | None]  # and what is wrong with it


def check_verdicts(outputs: Outputs) -> Iterator[Checked]:
    """Every verdict, document and tables."""
    for run_id in outputs.store.children(layout.VERDICTS):
        for verdict_id in outputs.store.children(f"{layout.VERDICTS}/{run_id}"):
            location = outputs.path(layout.verdict_folder(run_id, verdict_id))
            try:
                read_whole(outputs, run_id, verdict_id)
                yield location, None
            except DamagedError as error:
                yield location, f"{error}; the next night that comes to the same verdict gives it again"


def check_decisions(outputs: Outputs) -> Iterator[Checked]:
    """The last decision on each run that has one; those before it are history."""
    for run_id in outputs.store.children(layout.DECISIONS):
        location = outputs.path(layout.decisions(run_id))
        try:
            newest_decision(outputs, RunContent(run_id, None))
            yield location, None
        except DamagedError as error:
            yield location, str(error)


def check_counted(outputs: Outputs) -> Iterator[Checked]:
    """Every record that a run counts."""
    for child in outputs.store.children(layout.COUNTED):
        run_id = child.removesuffix(".json")
        try:
            read_counted(outputs, run_id)
            yield outputs.path(layout.counted(run_id)), None
        except DamagedError as error:
            yield outputs.path(layout.counted(run_id)), str(error)


def check_shards(outputs: Outputs) -> Iterator[Checked]:
    """Every shard that has a checkpoint record, or should have one."""
    for name in outputs.store.children(layout.SHARDS):
        shards = outputs.shards_in(name)
        for child in outputs.store.children(shards.folder):
            sound = shards.find(child) is not None
            problem = None if sound else "it is not what its record says; the next night that uses it makes it again"
            yield shards.location / child, problem


def check_weights(outputs: Outputs) -> Iterator[Checked]:
    """Every file of weights in the archive: its name is the hash of its content."""
    for child in outputs.store.children(layout.WEIGHTS):
        path = outputs.path(f"{layout.WEIGHTS}/{child}")
        if path.suffix == ".safetensors" and not child.startswith("."):
            try:
                outputs.load_weights(path.stem)
                problem = None
            except DamagedError as error:
                problem = str(error)
            yield path, problem


CHECKS = {
    "verdicts": check_verdicts,
    "decisions": check_decisions,
    "records that runs count": check_counted,
    "shards": check_shards,
    "weights": check_weights,
}
