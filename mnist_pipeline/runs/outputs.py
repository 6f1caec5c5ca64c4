"""The outputs folder as one object: opened once per command, it knows where everything below it is.

Opening asks nothing of the disk or the bucket. May be sent to other processes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mnist_pipeline.errors import DamagedError, WeightsError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.store.base import Location, Store
from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.store.opening import open_store

if TYPE_CHECKING:
    from mnist_pipeline.core.network import Network
    from mnist_pipeline.datasets.shards import ShardedImages


@dataclass(frozen=True)
class Outputs:
    """An outputs folder on disk or in a bucket. Names are those of `layout`."""

    store: Store

    @classmethod
    def at(cls, location: Location) -> Self:
        """The outputs folder at a location."""
        return cls(open_store(location))

    def __str__(self) -> str:
        return str(self.store.location)

    @property
    def location(self) -> Location:
        """Where it is, for people and for other tools."""
        return self.store.location

    def path(self, name: str) -> Location:
        """Where the file or folder of that name is, for people and for other tools."""
        return self.store.location / name

    def files_of(self, folder: str, staging_name: str) -> str:
        """The folder that the paths in a document are relative to.

        Args:
            folder: of the document.
            staging_name: of the staging directory from which it was published.
        """
        return folder if self.store.has_rename else layout.data_folder(staging_name)

    def files_of_run(self, run_id: str) -> str:
        """The folder that the paths in a manifest are relative to."""
        return self.files_of(layout.run_folder(run_id), run_id)

    def shard_set(self, images: "ShardedImages", shard_rows: int) -> CheckpointFolder:
        """The shards of a split cut by `shard_rows`, whether they exist yet or not."""
        from mnist_pipeline.datasets.shards import shard_set_name

        return self.shards_in(shard_set_name(images, shard_rows))

    def shards_of(self, manifest: Manifest) -> CheckpointFolder:
        """The shards that a published run was made from, whether they still exist or not."""
        return self.shards_in(shard_set_of(manifest))

    def shards_in(self, name: str) -> CheckpointFolder:
        """The shards of the shard set of that name."""
        folder = layout.shard_set(name)
        return CheckpointFolder(self.store, f"{folder}/images", f"{folder}/records")

    def labels_beside(self, shards: CheckpointFolder, sha256: str) -> str:
        """The name of the joined labels of a shard set's images, a byte each, from a file of that hash."""
        return f"{shards.folder.removesuffix('/images')}/labels/{sha256}"

    @contextmanager
    def using_shards(self, shards: CheckpointFolder) -> Iterator[None]:
        """Keep a shard set from being collected as unused during the block; other processes may use it as well."""
        with self.store.lock(shard_lock(shards.folder.removesuffix("/images")), shared=True):
            yield

    def load_weights(self, sha256: str) -> "Network":
        """The archived network of that sha256.

        Raises:
            DamagedError: it is missing, or other weights are kept under its name.
            StoreError: it cannot be read.
        """
        from mnist_pipeline.weights.files import MAX_FILE_BYTES, decode_weights, weights_sha256

        name = layout.weights(sha256)
        try:
            network = decode_weights(self.store.read(name, MAX_FILE_BYTES + 1), ".safetensors", str(self.path(name)))
            found = weights_sha256(network)
        except FileNotFoundError:
            found = "no file"
        except WeightsError as error:
            raise DamagedError(f"{error}; run again with these weights to restore them") from error
        if found != sha256:
            raise DamagedError(
                f"{self.path(name)}: expected the weights its name says, got {found}; run again with these weights to "
                "restore them"
            )
        return network

    def archive_weights(self, network: "Network") -> Location:
        """Keep a network under the sha256 of its bytes, so that any run can be recomputed; the file.

        Raises:
            StoreError: it cannot be written.
        """
        from mnist_pipeline.weights.files import archive_weights

        return self.path(archive_weights(network, self.store, layout.WEIGHTS))


def shard_set_of(manifest: Manifest) -> str:
    """The name of the shards that a published run was made from; schema version 1 did not keep it."""
    from mnist_pipeline.datasets.shards import shard_set_name

    identity = manifest.identity
    return manifest.shard_set or shard_set_name(identity, identity.shard_rows, identity.schema_version)


def shard_lock(folder: str) -> str:
    """The lock that is held, shared, by those that use the shard set in a folder."""
    return f"{folder}.in-use"
