"""A memory of hashes with whatever hash in it: to the pipeline, a file that rotted without a trace in its times."""

import hashlib
import json
from pathlib import Path

from mnist_pipeline.store.documents import canonical_json


def plant(kept: Path, path: Path, sha256: str, differing: int | None = None, schema_version: str = "1") -> None:
    """Write a memory to `kept` in which `sha256` is the hash of the file at `path`; one sign differing, if so told."""
    status = path.stat()
    signs = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
    if differing is not None:
        signs[differing] += 1
    content = {"schema_version": schema_version, "files": {str(path): [signs, sha256]}}
    document = {**content, "content_sha256": hashlib.sha256(canonical_json(content)).hexdigest()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(document, indent=2) + "\n")
