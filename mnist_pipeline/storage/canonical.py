"""One way to write a JSON document, so that equal documents have equal hashes."""

import hashlib
import json
from typing import Any


def canonical_json(document: Any) -> bytes:
    """Keys sorted, no spaces, ASCII only, no NaN: RFC 8785's idea, for documents of strings, integers and null."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def canonical_sha256(document: Any) -> str:
    """Sha256 in hex of the canonical JSON of `document`."""
    return hashlib.sha256(canonical_json(document)).hexdigest()
