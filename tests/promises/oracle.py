"""What must be so in an outputs folder at any moment, whatever has been killed or refused: by bytes, without our code.

Only where a command says what is current is our own code asked, beside plain JSON and pandas.
"""

import hashlib
import json
from pathlib import Path

import pandas as pd

from mnist_pipeline.core import idx
from mnist_pipeline.errors import PipelineError
from mnist_pipeline.runs.lookup import list_runs
from tests.published import opened, snapshot

DOCUMENTS = {"runs": "manifest.json", "verdicts": "verdict.json"}
IMMUTABLE = ("runs", "verdicts", "promotions")
VIEWS = ("history.parquet", "runs.parquet")
DIGITS = 10

Facts = dict[str, tuple[str, int]]


def facts(outputs: Path) -> Facts:
    """Sha256 and time of change of every file that must never change."""
    return {
        f"{kind}/{name}": found
        for kind in IMMUTABLE
        if (outputs / kind).is_dir()
        for name, found in snapshot(outputs / kind).items()
    }


def unsound(outputs: Path, earlier: Facts, damaged: Facts | None = None) -> list[str]:
    """Everything that is visible and not whole, or was visible before and has changed.

    Args:
        outputs: the outputs folder.
        earlier: what must not change.
        damaged: of a run that is to be replaced: as it is until then.
    """
    now = facts(outputs)
    wrong = [f"{name}: changed or gone" for name, found in earlier.items() if now.get(name) != found]
    runs = _folders(outputs / "runs")
    waiting = _folders(outputs / ".repairs")
    wrong += [f"replacement {path.name}: {problem}" for path in waiting for problem in _unlike(path, DOCUMENTS["runs"])]
    replaced = {Path(name).parts[1] for name in damaged or {}}
    kept = {name for name in replaced if damaged == {at: now[at] for at in now if Path(at).parts[1] == name}}
    wrong += [f"run {name}: neither there nor kept" for name in replaced - {path.name for path in (*runs, *waiting)}]
    runs = [path for path in runs if path.name not in kept]
    wrong += [f"run {path.name}: {problem}" for path in runs for problem in _unlike(path, DOCUMENTS["runs"])]
    found_runs = [run for run in list_runs(opened(outputs)) if run.name.run_id not in kept]
    wrong += [problem for run in found_runs for problem in run.problems()]
    runs = [*runs, *waiting, *(outputs / "runs" / name for name in kept)]
    for path in [folder for run in _folders(outputs / "verdicts") for folder in _folders(run)]:
        wrong += [f"verdict {path.name}: {problem}" for problem in _unlike(path, DOCUMENTS["verdicts"])]
        if path.parent.name not in {run.name for run in runs}:
            wrong.append(f"verdict {path.name}: on a run that is not there")
    names = {path.name for path in runs}
    for view in VIEWS:
        if (outputs / view).exists() and not (found := set(_frame(outputs / view)["run_id"])) <= names:
            wrong.append(f"{view}: names {found - names}, which are not there")
    if (outputs / "latest.json").exists():
        pointers = json.loads((outputs / "latest.json").read_bytes())
        wrong += [f"latest.json: points to {at}" for at in pointers.values() if at["run_id"] not in names]
    for folder in (*outputs.glob("runs/*/predictions"), *outputs.glob("shards/*/images")):
        stray = [path.name for path in folder.iterdir() if path.suffix != ".parquet" or path.name.startswith(".")]
        wrong += [f"{folder}: {name} among Parquet files" for name in stray]
    for path in (outputs / "promotions").glob("*"):
        document = json.loads(path.read_bytes())
        weights = outputs / "weights" / f"{document['weights_sha256']}.safetensors"
        if hashlib.sha256(weights.read_bytes()).hexdigest() != document["weights_sha256"]:
            wrong.append(f"{path.name}: its weights are not there")
    return wrong


def unsound_cache(cache: Path) -> list[str]:
    """Source files in the cache that are not whole: an IDX file says itself how long it is."""
    wrong = []
    for path in cache.glob("*/*-ubyte"):
        data = path.read_bytes()
        try:
            idx.check_size(idx.parse_header(data[: idx.MAX_HEADER_BYTES], str(path), data[3]), len(data), str(path))
        except (PipelineError, IndexError) as error:
            wrong.append(f"{path.name}: {error}")
    return wrong


def unpublished(outputs: Path, run_id: str, tables: dict[str, str], images: int) -> list[str]:
    """What is missing of a run that was published, with the bytes its tables must have, and of the views."""
    folder = outputs / "runs" / run_id
    if not folder.is_dir():
        return [f"run {run_id}: not published"]
    wrong = [] if table_hashes(folder) == tables else [f"run {run_id}: not the same bytes as undisturbed"]
    if len(_frame(folder / "predictions")) != images:
        wrong.append(f"run {run_id}: not {images} predictions")
    names = {path.name for path in _folders(outputs / "runs")}
    for view, rows in zip(VIEWS, (DIGITS, 1), strict=True):
        if _frame(outputs / view)["run_id"].value_counts().to_dict() != dict.fromkeys(names, rows):
            wrong.append(f"{view}: not {rows} rows of each of {names}")
    if {at["run_id"] for at in json.loads((outputs / "latest.json").read_bytes()).values()} != {max(names)}:
        wrong.append(f"latest.json: does not name {max(names)}")
    return wrong


def unrepaired(outputs: Path, damaged: Facts) -> list[str]:
    """What is missing of a damaged run's way to quarantine, beside its replacement."""
    expected = {Path(*Path(name).parts[2:]).as_posix(): found for name, found in damaged.items()}
    found = [snapshot(path) for path in _folders(outputs / "quarantine" / "runs")]
    wrong = [] if found == [expected] else [f"quarantine: {len(found)} runs, not the damaged one alone and as it was"]
    return wrong + [f"{path.name}: its repair is unfinished" for path in _folders(outputs / ".repairs")]


def unjudged(outputs: Path, run_id: str, tables: dict[str, str]) -> list[str]:
    """What is missing of a verdict on a run, and of the views."""
    folder = outputs / "verdicts" / run_id
    found = {path.name: table_hashes(path) for path in _folders(folder)}
    wrong = [] if tables in found.values() else [f"verdict on {run_id}: not the same bytes as undisturbed"]
    view = _frame(outputs / "runs.parquet").set_index("run_id")
    if run_id not in view.index or view.loc[run_id, "verdict_id"] not in found:
        wrong.append(f"runs.parquet: no verdict on {run_id}")
    return wrong


def table_hashes(folder: Path) -> dict[str, str]:
    """Sha256 of every Parquet file below a folder: of the same inputs always the same."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.parquet")
    }


def left(work: Path) -> list[str]:
    """What lies about that nobody has published: in staging, and hidden anywhere."""
    hidden = [path for path in work.rglob(".*") if path.name not in (".staging", ".repairs")]
    inside = [path for name in (".staging", ".repairs") for path in (work / "outputs" / name).glob("*")]
    return sorted({path.relative_to(work).as_posix() for path in [*hidden, *inside]})


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _unlike(folder: Path, document: str) -> list[str]:
    """How the files of a folder differ from those that its document lists."""
    path = folder / document
    if not path.is_file():
        return [f"no {document}"]
    listed = {file["path"]: file["sha256"] for file in json.loads(path.read_bytes())["files"]}
    found = {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and file != path
    }
    return [] if listed == found else [f"files are {found}, listed are {listed}"]


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)
