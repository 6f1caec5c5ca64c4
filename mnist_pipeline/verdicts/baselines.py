"""Which run each data set and split is compared against, beside the last that passed: a choice, in one small file."""

import json

from mnist_pipeline.errors import DamagedError, shown
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.documents import MAX_DOCUMENT_BYTES, parse_json


def read_baselines(outputs: Outputs) -> dict[str, str]:
    """The run_id pinned for each `dataset/split`.

    Raises:
        DamagedError: the file is not what `set_baseline` wrote.
        StoreError: it cannot be read.
    """
    path = outputs.path(layout.BASELINES)
    try:
        found = parse_json(outputs.store.read(layout.BASELINES, MAX_DOCUMENT_BYTES + 1))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DamagedError(
            f"{path}: expected run_ids by data set, got something else ({error}); delete it and set them again"
        ) from error
    if not isinstance(found, dict) or not all(layout.RUN_ID.fullmatch(str(run_id)) for run_id in found.values()):
        raise DamagedError(f"{path}: expected run_ids by data set, got {shown(found)}; delete it and set them again")
    return found


def set_baseline(outputs: Outputs, dataset: str, split: str, run_id: str | None) -> None:
    """Pin a run, or with None compare the data set and split against none.

    Raises:
        StoreError: the file cannot be written.
        DamagedError: the file there is not one of ours.
    """

    def make() -> dict[str, bytes]:
        pinned = read_baselines(outputs) | {f"{dataset}/{split}": run_id}
        kept = {name: run for name, run in sorted(pinned.items()) if run is not None}
        return {layout.BASELINES: json.dumps(kept, indent=2).encode() + b"\n"}

    outputs.store.update([layout.BASELINES], make)
