"""Which run each data set and split is held to, beside the last one that passed: a choice, kept in one small file."""

import json

from mnist_pipeline.errors import DamagedError, StoreError
from mnist_pipeline.runs.staging import STAGING
from mnist_pipeline.store.files import outputs_errors
from mnist_pipeline.store.objects import Location
from mnist_pipeline.store.updates import update

BASELINES = "baselines.json"


def read_baselines(outputs: Location) -> dict[str, str]:
    """The run_id pinned for each `dataset/split`.

    Raises:
        DamagedError: the file is not what `set_baseline` wrote.
    """
    path = outputs / BASELINES
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        raise DamagedError(
            f"{path}: expected run_ids by data set, got {error}; delete it and set them again"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(run_id, str) for run_id in found.values()):
        raise DamagedError(f"{path}: expected run_ids by data set, got {found!r}; delete it and set them again")
    return found


def set_baseline(outputs: Location, dataset: str, split: str, run_id: str | None) -> None:
    """Pin a run, or with None hold the data set and split to no run.

    Raises:
        OutputsError: the file cannot be written.
        DamagedError: the file there is not one of ours.
    """

    def make() -> dict[str, bytes]:
        pinned = read_baselines(outputs) | {f"{dataset}/{split}": run_id}
        kept = {name: run for name, run in sorted(pinned.items()) if run is not None}
        return {BASELINES: json.dumps(kept, indent=2).encode() + b"\n"}

    with outputs_errors(f"cannot write {outputs / BASELINES}"):
        update(outputs, outputs / STAGING / "baselines.lock", (BASELINES,), make)
