"""The base of all documents, and how one says why a command failed."""

import json
from collections.abc import Iterable
from datetime import date

from pydantic import BaseModel, ConfigDict, Field

ARCHITECTURE = "widths of the layers of its network, and activation of the hidden ones"


class Facts(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class FailureFacts(Facts):
    """Why a command did not succeed."""

    type: str = Field(description="a class of mnist_pipeline.errors, UsageError, Interrupted or Terminated")
    message: str = Field(description="the line that stderr has after `error: `")
    exit_code: int = Field(description="exit code of the command")


class Result(Facts):
    """A document."""

    error: FailureFacts | None = Field(
        default=None,
        description="null if the command succeeded; alone in the document if it ended before it had any fact",
    )

    @property
    def document(self) -> str:
        """The JSON of --json, in ASCII, with all that is no printable character escaped."""
        return json.dumps(self.model_dump(), indent=2, allow_nan=False, default=_text)

    @property
    def last_words(self) -> Iterable[str]:
        """What --quiet prints, a line each."""
        return ()


def _text(value: object) -> str:
    """A date or a time as ISO 8601."""
    assert isinstance(value, date), f"{type(value)} in a document"
    return value.isoformat().replace("+00:00", "Z")
