"""Checks what the next night of a data set needs, and what the last ones came to, without the Prefect server.

Changes nothing, except that it writes a probe file to the outputs folder and removes it.
"""

import functools
import shlex
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from mnist_pipeline.datasets.source_files import verified_file
from mnist_pipeline.errors import DamagedError, DataError, OutputsError
from mnist_pipeline.orchestration.doctor.findings import SET_UP, Finding, guarded
from mnist_pipeline.orchestration.scheduled import Due
from mnist_pipeline.pipeline.arrival import look_for_data
from mnist_pipeline.pipeline.nightly import state_of
from mnist_pipeline.pipeline.planning import network_of
from mnist_pipeline.runs.lookup import backfill_command, missing_run_dates, newest_counted, runs_of, runs_of_dates
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.probe import free_bytes, problem_with_writing
from mnist_pipeline.weights.files import weights_sha256

# A run of MNIST's test split publishes 0.5 MB and shares 4 MB of shards with other runs: 1 GiB is room for years of
# them, or for one run over some million images.
MIN_FREE_BYTES = 1 << 30
RUN_DUE = timedelta(hours=6)  # after midnight UTC, when the deployment `deadline` checks too
DATES_CHECKED = 7


def check_next_run(due: Due) -> Iterator[Finding]:
    """What the next night of a data set and split needs, and what the last ones came to."""
    settings = due.settings
    of = f"of {settings.dataset}/{settings.split}"
    for what, check in {"cache": _cache, "weights": _weights, "gates": _gates}.items():
        yield from guarded(f"{what} {of}", functools.partial(check, settings))
    yield from guarded(f"nights {of}", functools.partial(_recent_run_dates, due))
    yield from guarded(f"newest night {of}", functools.partial(_newest_verdict, settings))


def check_disk(outputs: Location) -> Iterator[Finding]:
    """Whether there is room for the nights."""
    if (free := free_bytes(outputs)) is None:  # a bucket has no end
        return
    enough = free >= MIN_FREE_BYTES
    found = f"{free / (1 << 30):.1f} GiB free for {outputs}"
    advice = f"make room: `du -sh {outputs}/*` shows what uses it; at least {MIN_FREE_BYTES >> 30} GiB are needed"
    yield Finding("disk", enough, found, "" if enough else advice)


def check_writable(outputs: Location) -> Iterator[Finding]:
    """Whether this process can publish there."""
    if problem := problem_with_writing(outputs):
        right = "what the environment says of credentials and endpoint"
        if isinstance(outputs, Path):
            right = f"the right of this user to write there (`ls -ld {outputs}`)"
        advice = f"check {right}, or name another folder with MNIST_PIPELINE_OUTPUTS, then `{SET_UP}`"
        yield Finding("outputs", False, problem, advice)
    else:
        yield Finding("outputs", True, f"{outputs} can be written")


def _cache(settings: Settings) -> Iterator[Finding]:
    what = f"cache of {settings.dataset}/{settings.split}"
    if settings.images:
        settings.require_source()
        yield Finding(what, None, f"none needed: the images come from {settings.images}")
        return
    dataset = settings.described_dataset()
    files = dataset.splits[settings.split].files
    folder = settings.cache / settings.dataset
    kept = [file for file in files if file.sha256 and (folder / file.name).is_file()]
    damaged = []
    for file in kept:
        try:
            if verified_file(folder / file.name).sha256 != file.sha256:
                damaged.append(f"{folder / file.name} does not have the pinned sha256")
        except DataError as error:
            damaged.append(str(error))
    if damaged:
        again = f"`mnist-pipeline fetch --dataset {settings.dataset} --split {settings.split}` fetches it again"
        yield Finding(what, False, "; ".join(damaged), again)
    elif settings.data_dir:
        yield Finding(what, None, f"none needed: the files come from {settings.data_dir}")
    elif len(kept) == len(files):
        yield Finding(what, True, f"{len(kept)} files verified in {folder}")
    else:
        absent = ", ".join(file.name for file in files if file not in kept)
        yield Finding(what, None, f"{absent} will be fetched by the next run")


def _weights(settings: Settings) -> Iterator[Finding]:
    """Whether the weights of the next night can be read: the configured ones, or the current ones."""
    network = network_of(settings)
    whose = f"configured: {settings.weights}" if settings.weights else "current"
    what = f"weights of {settings.dataset}/{settings.split}"
    yield Finding(what, True, f"{whose}, {network.architecture}, sha256 {weights_sha256(network)[:12]}")


def _gates(settings: Settings) -> Iterator[Finding]:
    """Whether anybody has chosen by which bounds the nights are judged."""
    what = f"gates of {settings.dataset}/{settings.split}"
    if settings.dataset in settings.gates:
        yield Finding(what, True, f"chosen under [gates.{settings.dataset}]")
    else:
        found = "none chosen: only certain losses, and changes without a cause, fail a night"
        yield Finding(what, None, found, f"add [gates.{settings.dataset}] to a config file")


def _recent_run_dates(due: Due) -> Iterator[Finding]:
    """Check that the dates that are due are published, from the first published one on, and not damaged."""
    dataset, split, outputs = due.settings.dataset, due.settings.split, Outputs.at(due.settings.outputs)
    what = f"nights of {dataset}/{split}"
    published = runs_of_dates(outputs, runs_of(outputs, dataset, split))
    dates = [run_date for run_date in due.dates if published and run_date >= published[0].name.run_date]
    if not dates:
        yield Finding(what, None, f"none due yet in {outputs}" if due.dates else "not due: no active schedule")
        return
    missing = missing_run_dates(outputs, dataset, split, dates)
    wrong = list(_wrong(run for run in published if run.name.run_date in dates))
    if missing:
        found = f"no published run that counts of {', '.join(map(str, missing))} in {outputs}"
        lines, _ = look_for_data(due.settings, missing)
        command = backfill_command(outputs, dataset, split, missing[0], missing[-1])
        yield Finding(what, False, "; ".join([found, *lines]), f"`{command}`")
    if wrong:
        repairs = all(isinstance(error, DamagedError) for error in wrong)
        command = f"`mnist-pipeline verify{' --repair' if repairs else ''} --outputs {shlex.quote(str(outputs))}`"
        yield Finding(what, False, "; ".join(map(str, wrong)), command)
    if not missing and not wrong:
        yield Finding(what, True, f"every one from {dates[0]} to {dates[-1]} is published in {outputs}")


def _wrong(runs: Iterable[Run]) -> Iterator[OutputsError]:
    for run in runs:
        try:
            run.manifest()
        except OutputsError as error:
            yield error


def _newest_verdict(settings: Settings) -> Iterator[Finding]:
    """Whether the gates accept the newest run."""
    dataset, split = settings.dataset, settings.split
    what = f"newest night of {dataset}/{split}"
    outputs = Outputs.at(settings.outputs)
    newest = next(newest_counted(outputs, runs_of(outputs, dataset, split)), None)
    if newest is None:
        yield Finding(what, None, f"none yet in {outputs}")
        return
    state = state_of(settings, newest)
    where = f"--outputs {shlex.quote(str(outputs))}"
    advice = f"`mnist-pipeline show {newest.name.run_id} {where}`, or its report, has the gates that failed"
    yield Finding(what, state.good, state.line, "" if state.good else advice)
