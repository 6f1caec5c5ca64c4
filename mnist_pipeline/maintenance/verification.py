"""Looks at everything below the outputs folder that carries a checksum, beside the runs: verdicts, shards, weights.

Changes nothing.
"""

from collections.abc import Iterator

from mnist_pipeline.datasets.shards import SHARDS
from mnist_pipeline.errors import DamagedError, WeightsError
from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.store.files import subfolders
from mnist_pipeline.store.objects import Location
from mnist_pipeline.verdicts.records import VERDICTS, read_whole
from mnist_pipeline.weights.files import WEIGHTS, load_weights, weights_sha256

Checked = tuple[Location, str | None]  # and what is wrong with it


def check_verdicts(outputs: Location) -> Iterator[Checked]:
    """Every verdict, document and tables."""
    for folder in subfolders(outputs / VERDICTS):
        for verdict in subfolders(folder):
            try:
                read_whole(outputs, folder.name, verdict.name)
                yield verdict, None
            except DamagedError as error:
                yield verdict, f"{error}; the next night that comes to the same verdict gives it again"


def check_shards(outputs: Location) -> Iterator[Checked]:
    """Every shard that has a record, or should have one."""
    for shard_set in subfolders(outputs / SHARDS):
        checkpoints = CheckpointFolder(folder=shard_set / "images", records=shard_set / "records")
        for path in checkpoints.folder.iterdir() if checkpoints.folder.is_dir() else ():
            sound = checkpoints.find(path.name) is not None
            yield path, None if sound else "it is not what its record says; the next night that uses it makes it again"


def check_weights(outputs: Location) -> Iterator[Checked]:
    """Every file of weights in the archive: its name is the hash of what is in it."""
    folder = outputs / WEIGHTS
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix == ".safetensors" and not path.name.startswith("."):
            try:
                problem = None if weights_sha256(load_weights(path)) == path.stem else "its name says other weights"
            except WeightsError as error:
                problem = str(error)
            yield path, problem and f"{problem}; a run with these weights puts them back"
