"""Every name below the outputs folder, spelled once.

Facts: `runs/`, `weights/`, `promotions/`, `decisions/`, `counted/`, `baselines.json`. Verdicts: `verdicts/`.
Caches: `shards/`. Views, derived and replaceable: `history.parquet`, `runs.parquet`, `latest.json`, `reports/`. Hidden
from readers: `.staging/`, `.repairs/`, `quarantine/`, and in a bucket `data/`, where the files stay that a manifest or
verdict lists.
"""

import re

from mnist_pipeline.report import links
from mnist_pipeline.store.base import LOCK
from mnist_pipeline.store.base import STAGING as STAGING

RUNS = "runs"
VERDICTS = "verdicts"
SHARDS = "shards"
WEIGHTS = "weights"
PROMOTIONS = "promotions"
DECISIONS = "decisions"
COUNTED = "counted"
CANDIDATES = "candidates"  # an outputs folder of its own, for runs of weights that may be promoted
REPORTS = "reports"
REPAIRS = ".repairs"
QUARANTINE = "quarantine"
DATA = "data"
BASELINES = "baselines.json"
HISTORY = "history.parquet"
RUNS_VIEW = "runs.parquet"
LATEST = "latest.json"
INDEX = f"{REPORTS}/{links.INDEX}"

MANIFEST = "manifest.json"  # in the folder of a run
PRUNED = "pruned.json"
PREDICTIONS = "predictions"
VERDICT = "verdict.json"  # in the folder of a verdict
CONFLICT = "conflict-"  # starts the name of a staging directory whose run disagreed with the published one
VERDICT_STAGING = re.compile(r"^verdict-[0-9a-f]{12}-")  # starts that of a verdict, before the run_id

RUN_ID = re.compile(
    r"(?P<run_date>\d{4}-\d\d-\d\d)-(?P<dataset>[a-z0-9][a-z0-9_-]*)-(?P<split>[a-z0-9_]+)-(?P<fingerprint>[0-9a-f]{12})"
)
SHARD_SET = re.compile(r"[a-z0-9][a-z0-9_-]*-[0-9a-f]{12}")
# What this package leaves in `.staging`; nothing else is collected there: directories of attempts and of verdicts,
# conflicts, what is about to be created or deleted, unfinished files, and the locks of all of it.
_RUN = re.sub(r"\?P<\w+>", "?:", RUN_ID.pattern)
_ATTEMPT = rf"(verdict-[0-9a-f]{{12}}-)?{_RUN}(\.[0-9a-f]{{8}})?"
_LOCKED = rf"{_ATTEMPT}|{_RUN}\.repair|({_RUN}|[0-9a-f]{{12}})\.quarantine|{SHARDS}-{SHARD_SET.pattern}\.in-use"
STAGED = re.compile(
    rf"{_ATTEMPT}|{CONFLICT}{_RUN}-[0-9a-f]{{8}}|\..+\.[0-9a-f]{{32}}"
    r"|(deleted|doctor|\d{6}\.json|pruned\.json)-[0-9a-f]{32}"
    rf"|({_LOCKED}|{re.escape(HISTORY)}|{re.escape(BASELINES)}|{REPORTS}-(index|{_RUN})\.html){re.escape(LOCK)}"
)


def run_folder(run_id: str) -> str:
    """The folder of a published run: of its manifest, and on disk of all its files."""
    return f"{RUNS}/{run_id}"


def verdict_folder(run_id: str, verdict_id: str) -> str:
    """The folder of a published verdict: of its document, and on disk of all its files."""
    return f"{VERDICTS}/{run_id}/{verdict_id}"


def verdict_staging(run_id: str, verdict_id: str) -> str:
    """The name of the staging directory of a verdict."""
    return f"verdict-{verdict_id}-{run_id}"


def staging_folder(name: str) -> str:
    """The staging directory of that name; the run_id for a run."""
    return f"{STAGING}/{name}"


def data_folder(staging_name: str) -> str:
    """Where files stay, in a bucket, that were published from the staging directory of that name."""
    return f"{DATA}/{staging_name}"


def repair_folder(run_id: str) -> str:
    """Where the complete replacement of a run is recorded before the run leaves its place."""
    return f"{REPAIRS}/{run_id}"


def report(run_id: str) -> str:
    """The report of a run."""
    return f"{REPORTS}/{links.report_page(run_id)}"


def month_page(month: str) -> str:
    """The page over the runs of a month, as in 2026-11."""
    return f"{REPORTS}/{links.month_page(month)}"


def weights(sha256: str) -> str:
    """The archived weights of that sha256."""
    return f"{WEIGHTS}/{sha256}.safetensors"


def decisions(run_id: str) -> str:
    """The folder of the numbered decisions on a run."""
    return f"{DECISIONS}/{run_id}"


def counted(run_id: str) -> str:
    """The record that a run counts."""
    return f"{COUNTED}/{run_id}.json"


def shard_set(name: str) -> str:
    """The folder of a shard set: `images/` and `records/`, and `labels/` that came later."""
    return f"{SHARDS}/{name}"
