"""Who a run is (its identity) and what it consists of (its manifest). Reads and writes no files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mnist_pipeline.core.plan import MAX_SHARDS
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs.layout import RUN_ID, SHARD_SET
from mnist_pipeline.store.documents import (
    ChecksummedDocument,
    Count,
    Moment,
    Sha256,
    Share,
    canonical_sha256,
)
from mnist_pipeline.store.files import FileRecord

if TYPE_CHECKING:
    from mnist_pipeline.core.calibration import Calibration

FINGERPRINT_DIGITS = 12
MAX_SOURCE = 5000  # characters
MAX_ROWS = 2**31  # in a batch or a shard
_SUMS = {"images", "labelled", "correct"}
Rows = Annotated[int, Field(ge=1, le=MAX_ROWS)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Loss = Annotated[float, Field(ge=0, le=1e6)]  # in nats or squares an image
BOOK_NAME = "784-50-100-10 sigmoid"  # `str` of core.network.BOOK, which not every command has to import
# As `str` of an Architecture; of any activation, so that a later version may add one.
ArchitectureName = Annotated[str, Field(pattern=r"^784(-[0-9]{1,7}){0,7}-10( [a-z0-9_]{1,20})?$")]


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Identity(_Values):
    """Everything that can change the published numbers, and the day the run stands for."""

    run_date: date
    dataset: str
    split: str
    images: Count
    images_sha256: Sha256
    labels_sha256: Sha256 | None
    keys_from: str | None = None  # where the images' own names come from; left out if they have none
    weights_sha256: Sha256
    transform_version: str
    schema_version: str
    batch_rows: Rows
    shard_rows: Rows

    @model_serializer(mode="wrap")
    def _as_before_keys(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `keys_from` where there are none: such a run is the same as before there were keys."""
        return {name: value for name, value in fields(self).items() if (name, value) != ("keys_from", None)}

    @property
    def fingerprint(self) -> str:
        """Sha256 in hex of the canonical JSON of all fields but the date."""
        return canonical_sha256(self.model_dump(mode="json", exclude={"run_date"}))

    @property
    def run_id(self) -> str:
        return f"{self.run_date}-{self.dataset}-{self.split}-{self.fingerprint[:FINGERPRINT_DIGITS]}"

    @property
    def key_columns(self) -> dict[str, Any]:
        """The columns that every table of the run begins with: run_id, run_date, dataset, split.

        Not `keys`: `dict()` would take the model for a mapping, as Prefect does.
        """
        return {"run_id": self.run_id, **self.model_dump(include={"run_date", "dataset", "split"})}


class RunName(_Values):
    """What a run_id says by itself."""

    run_id: str
    run_date: date
    dataset: str
    split: str

    @property
    def key_columns(self) -> dict[str, Any]:
        """As `Identity.key_columns`."""
        return self.model_dump()

    @property
    def split_of(self) -> str:
        """`dataset/split`, as the pointer and the baselines name it."""
        return f"{self.dataset}/{self.split}"

    def is_of(self, dataset: str, split: str) -> bool:
        """Whether the run evaluated that split of that data set."""
        return (self.dataset, self.split) == (dataset, split)

    @classmethod
    def parse(cls, run_id: str) -> Self | None:
        """Take a run_id apart; None if it is not one."""
        match = RUN_ID.fullmatch(run_id)
        try:
            return match and cls(
                run_id=run_id,
                run_date=date.fromisoformat(match["run_date"]),
                dataset=match["dataset"],
                split=match["split"],
            )
        except ValueError:
            return None


class Totals(_Values):
    """The run in a few numbers: accuracy is null without labels, and so are the figures of calibration."""

    # A figure that a later version adds is passed over.
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    images: Count
    labelled: Count
    correct: Count
    accuracy: Share | None
    top2_accuracy: Share | None = None
    nll: Loss | None = None
    nll_error: Loss | None = None
    brier: Loss | None = None
    brier_error: Loss | None = None
    ece: Share | None = None
    ece_noise: Share | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.correct <= self.labelled <= self.images:
            raise ValueError("expected correct <= labelled <= images")
        if self.accuracy != (self.correct / self.labelled if self.labelled else None):
            raise ValueError("expected the accuracy of correct and labelled")
        return self

    @classmethod
    def of(cls, tally: Tally, calibration: "Calibration") -> Self:
        """The totals of what was counted."""
        scores = calibration.scores()
        return cls(
            images=tally.images,
            labelled=tally.labelled,
            correct=tally.correct,
            accuracy=tally.accuracy,
            **(asdict(scores) if scores else {}),
        )


@dataclass(frozen=True)
class RunContent:
    """A run and what it consists of: moved away and made again with other numbers, it has the same run_id only.

    `sha256` is over the hashes of all its files; None if they cannot be known.
    """

    run_id: str
    sha256: str | None


class Manifest(ChecksummedDocument):
    """What a published run consists of and how it came to be. Paths are relative to the run's directory."""

    kind: ClassVar[str] = "a run's manifest"
    checksum_field: ClassVar[str] = "manifest_sha256"

    run_id: str
    fingerprint: str
    identity: Identity
    totals: Totals
    versions: Mapping[str, str]
    engine: Literal["direct", "prefect"]
    workers: Count
    evaluated_at: Moment
    published_at: Moment
    timings_seconds: Mapping[str, Seconds]
    files: tuple[FileRecord, ...]
    # The folder of its images below shards/; schema version 1 did not name it.
    shard_set: Annotated[str, Field(pattern=rf"^{SHARD_SET.pattern}$")] | None = None
    # Of the network; the versions that did not name it had only the book's.
    architecture: ArchitectureName = BOOK_NAME
    # Where images, labels and weights were read from, by setting, if a setting named it; for people alone.
    sources: Mapping[str, Annotated[str, Field(max_length=MAX_SOURCE)]] = Field(default_factory=dict)
    doubts: tuple[Annotated[str, Field(max_length=200)], ...] = ()  # about the images that were evaluated
    # Everything that was counted, so that a run can be judged and shown again without a look at its images.
    tally: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        who, name = self.identity, RunName.parse(self.run_id)
        if name is None or (name.run_date, name.dataset, name.split) != (who.run_date, who.dataset, who.split):
            raise ValueError("expected the run_id of its identity")
        if who.images != self.totals.images or who.images > who.shard_rows * MAX_SHARDS:
            raise ValueError("expected as many images in identity and totals, and in shards")
        if len({file.path for file in self.files}) < len(self.files):
            raise ValueError("expected each file once")
        return self

    @property
    def _sums(self) -> dict[str, int]:
        return self.totals.model_dump(include=_SUMS)

    @property
    def content(self) -> RunContent:
        return RunContent(self.run_id, canonical_sha256({file.path: file.sha256 for file in self.files}))

    def counted(self) -> "tuple[Tally, Calibration]":
        """What was counted while the run was made.

        Raises:
            DamagedError: the run was published by a version that did not keep it, or kept it in another form.
        """
        from mnist_pipeline.core.calibration import Calibration

        if self.tally is None or self.calibration is None:
            raise DamagedError(
                f"run {self.run_id}: expected its counts in the manifest, got none: it was published by an earlier "
                f"version; move it away and run --run-date {self.identity.run_date} again"
            )
        try:
            tally, calibration = Tally.from_json(self.tally), Calibration.from_json(self.calibration)
            # Its intervals are made here once, so that counts that cannot be fail here and nowhere else.
            if tally.scores() and Totals.of(tally, calibration).model_dump(include=_SUMS) != self._sums:
                raise ValueError("counts with other totals than those of the manifest")
            return tally, calibration
        except (ValueError, ArithmeticError) as error:
            raise DamagedError(
                f"run {self.run_id}: expected counts that this version can read, got {error}; "
                "read it with the version of mnist-pipeline that published it"
            ) from error


class Pruned(ChecksummedDocument):
    """Predictions and report of a run are given up. They may be there for a while yet, for those who read them."""

    kind: ClassVar[str] = "the record of a prune"
    checksum_field: ClassVar[str] = "pruned_sha256"

    run_id: str
    pruned_at: Moment
