"""Writes hash caches with any hash: simulates a file whose bytes have rotted without a change of its times."""

import hashlib
import json
from pathlib import Path

from mnist_pipeline.store.documents import canonical_json


def plant(kept: Path, path: Path, sha256: str, differing: int | None = None, schema_version: str = "3") -> None:
    """Write a hash cache to `kept` with `sha256` for `path`; `differing` is the index of a sign to change, if any."""
    status = path.stat()
    signs = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
    if differing is not None:
        signs[differing] += 1
    lines = path.read_bytes().rstrip().count(b"\n") + 1
    known = ["-".join(map(str, signs)), sha256, status.st_size, lines]
    content = {"schema_version": schema_version, "files": {str(path): known}}
    document = {**content, "content_sha256": hashlib.sha256(canonical_json(content)).hexdigest()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(document, indent=2) + "\n")
