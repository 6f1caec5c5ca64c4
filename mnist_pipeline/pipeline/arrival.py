"""Whether what is to be evaluated has arrived, and waiting for it. Reads none of it.

A folder counts as arrived as soon as a file is in it: who fills one file by file should rename it when it is full.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from time import monotonic, sleep

from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.datasets.source_files import is_file, source_errors
from mnist_pipeline.errors import MAX_LISTED, DataError, NoDataError, UnavailableError
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location, is_empty
from mnist_pipeline.store.opening import open_store

logger = logging.getLogger(__name__)

POLL_SECONDS = 30.0
WORK = "waiting for data"


@dataclass(frozen=True)
class Arrival:
    """What is known of the data of a run date, in a line, and whether that is that it is not there."""

    line: str
    is_absent: bool = False


def awaited(settings: Settings) -> dict[str, Location]:
    """The locations that have to hold something before the run begins, by setting.

    Not the folder of a data set whose files are pinned: the other sources have the same files.
    """
    names = ("images", "labels") if settings.is_pinned else ("images", "data_dir", "labels")
    found = {name: getattr(settings, name) for name in names}
    return {name: location for name, location in found.items() if location is not None}


def missing(settings: Settings) -> dict[str, Location]:
    """Which of the awaited locations hold nothing yet, by setting.

    Raises:
        DataError: one cannot be opened.
        UnavailableError: a bucket does not answer, which says nothing about what it holds.
    """
    return {name: location for name, location in awaited(settings).items() if not _holds_a_file(location)}


def wait_for_data(
    settings: Settings, progress: Progress = silent, on_waiting: Callable[[str], None] = lambda _: None
) -> None:
    """Wait until all that is to be evaluated is there, for `wait_for_data_minutes` at most.

    Args:
        settings: of the run.
        progress: callback; its units are seconds.
        on_waiting: called once, when the waiting begins, with what for and until when.

    Raises:
        SettingsError: the settings contradict each other.
        NoDataError: it is not there by then.
        DataError: what is there cannot be opened.
        UnavailableError: a bucket did not answer by then.
    """
    settings.require_source()
    limit, begun, until = 60.0 * settings.wait_for_data_minutes, monotonic(), ""
    while (problem := _problem(settings)) is not None:
        waited = monotonic() - begun
        if waited >= limit:
            raise problem
        if not until:
            until = f"{datetime.now(UTC) + timedelta(seconds=limit - waited):%Y-%m-%d %H:%M} UTC"
            line = f"{WORK} until {until}: {_line(awaited(settings))}"
            logger.warning("%s", line)
            on_waiting(line)
        progress(WORK, int(waited), int(limit))
        sleep(min(POLL_SECONDS, limit - waited))
    if until:
        progress(WORK, int(limit), int(limit))
        logger.info("the data is there: %s", _line(awaited(settings)))


def look_for_data(settings: Settings, dates: Sequence[date]) -> tuple[list[str], bool]:
    """Whether the data of run dates without a run is there.

    Returns:
        Lines that say it, those of dates with data first: somebody can evaluate them. None if the settings await
        nothing. And whether it is certain that no date has any.
    """
    found = sorted(_arrivals(settings, dates), key=lambda each: each.is_absent)
    lines = [each.line for each in found[:MAX_LISTED]]
    lines += [f"and {len(found) - MAX_LISTED} more"] if len(found) > MAX_LISTED else []
    return lines, sum(each.is_absent for each in found) == len(dates)


def _arrivals(settings: Settings, dates: Sequence[date]) -> Iterator[Arrival]:
    for run_date in dates:
        that_day = settings.on(run_date)
        try:
            absent = missing(that_day)
        # A store that does not answer is not asked again: those of later dates are left out.
        except (DataError, UnavailableError) as error:
            yield Arrival(f"{run_date}: could not look for its data ({error})")
            return
        if absent:
            yield Arrival(f"{run_date}: no data at {_line(absent)}", is_absent=True)
        elif awaited(that_day):
            yield Arrival(f"{run_date}: no run that counts, and its data is there")


def _problem(settings: Settings) -> NoDataError | UnavailableError | None:
    try:
        absent = missing(settings)
    except UnavailableError as error:
        return error
    if not absent:
        return None
    minutes = settings.wait_for_data_minutes
    waited = f" after {minutes} minute{'s' if minutes > 1 else ''}" if minutes else ""
    return NoDataError(
        f"no data at {_line(absent)}: expected that of {settings.run_date}, got nothing there{waited}; check the "
        "name, or put it there and run again: wait_for_data_minutes lets runs wait for it"
    )


def _line(locations: dict[str, Location]) -> str:
    return " and ".join(f"{location} ({name})" for name, location in locations.items())


def _holds_a_file(location: Location) -> bool:
    """Whether there is a file of this name, or one below it."""
    with source_errors(location):
        return is_file(location) or not is_empty(open_store(location), "")
