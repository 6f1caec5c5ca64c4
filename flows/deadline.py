"""The flow mnist-deadline: fails if a due run is not published or not accepted, so that an automation can report it.

Which nights are due follows from the schedules on the server, whether they came from the published runs alone: so it
works even if Prefect never created a run, or lost it.
"""

from typing import Annotated, Any

from pydantic import Field

from mnist_pipeline.orchestration import tasks
from mnist_pipeline.orchestration.flow_runs import flow, flow_run_name, logical_date, require_all
from mnist_pipeline.settings import AnyLocation, DatasetName, LocalPath, RunDate, SplitName, load_settings

Nights = Annotated[int, Field(ge=1, le=366)]


@flow(name="mnist-deadline", flow_run_name=flow_run_name("deadline", names_split=False))
def deadline(
    dataset: DatasetName | None = None,
    split: SplitName | None = None,
    run_date: RunDate | None = None,
    nights: Nights = 1,
    outputs: AnyLocation | None = None,
    config: LocalPath | None = None,
) -> None:
    """Fail if a due date has no published run that counts, or one that fails its gates or was not judged.

    Without any scheduled deployment that evaluates, the night is that of config and environment.

    Args:
        dataset: data set of the nights; those of all scheduled deployments that evaluate if left out.
        split: split of the data set; that of each deployment if left out.
        run_date: the last date that is due; the UTC date of the scheduled start if left out.
        nights: how many dates to check, up to that one.
        outputs: folder of the published runs; that of each deployment if left out.
        config: TOML file laid over the project's own configuration; none if left out.
    """
    given: dict[str, Any] = {"dataset": dataset, "split": split, "outputs": outputs}
    run_date = run_date or logical_date()
    due = tasks.due_runs(load_settings(config, run_date=run_date, **given), given, nights)
    require_all(tasks.require_run_dates(each, return_state=True) for each in due)
