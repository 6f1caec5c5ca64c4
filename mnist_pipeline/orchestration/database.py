"""Checks the database of a Prefect server before one is started on it here.

The server itself would say in a traceback that it cannot use it, and be waited for in vain. Looks at SQLite files only.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import prefect
from prefect.settings import get_current_settings

from mnist_pipeline.errors import EngineError

# The scripts that bring a database up to this version of Prefect, each with the revision that it leads to.
_MIGRATIONS = Path(prefect.__file__).parent / "server" / "database" / "_migrations" / "versions" / "sqlite"
_REVISION = re.compile(r'^revision = "(\w+)"', re.MULTILINE)


def require_database() -> None:
    """Check that a server can be started on the database of the settings in force.

    Raises:
        EngineError: its file or folder cannot be written, is no database, or belongs to a newer Prefect.
    """
    path = _database_file()
    if path is None:
        return
    elsewhere = "set PREFECT_HOME to another folder, or run with --direct"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        revisions = _revisions(path)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise EngineError(
            f"Prefect's database {path}: expected to write to it, got {reason}; move it away, or {elsewhere}"
        ) from error
    if unknown := revisions - _known():
        raise EngineError(
            f"Prefect's database {path}: expected that of Prefect {prefect.__version__} or earlier, got revision "
            f"{min(unknown)} of another; install the Prefect that made it, or {elsewhere}"
        )


def _database_file() -> Path | None:
    """The file, or None if the database is none on this disk."""
    address = get_current_settings().server.database.connection_url
    text = address.get_secret_value() if address else ""
    scheme, _, path = text.partition(":///")
    path = path.partition("?")[0]
    return Path(path) if scheme.startswith("sqlite") and path and ":memory:" not in path else None


def _revisions(path: Path) -> set[str]:
    """What the database was brought to, found by beginning to write to it; nothing if it is new or at work."""
    address = f"file:{quote(str(path))}?mode=rwc"
    with closing(sqlite3.connect(address, uri=True, timeout=0, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("CREATE TABLE mnist_pipeline (tried)")  # without a commit it is gone again
            return {text for (text,) in database.execute("SELECT version_num FROM alembic_version")}
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "locked" in str(error):
                return set()
            raise


def _known() -> set[str]:
    return {revision for each in _MIGRATIONS.glob("*.py") for revision in _REVISION.findall(each.read_text("utf-8"))}
