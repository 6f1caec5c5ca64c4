"""A damaged run -> the same run, whole: made again from the weights in the archive and from the same images."""

from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.pipeline.evaluation import Published, Timings, evaluate_plan
from mnist_pipeline.pipeline.inputs import open_images
from mnist_pipeline.pipeline.planning import make_plan
from mnist_pipeline.runs.lookup import Run
from mnist_pipeline.settings import Settings
from mnist_pipeline.weights.files import WEIGHTS


def repair(settings: Settings, run: Run, progress: Progress = silent) -> Published:
    """Publish a damaged run again, whatever weights are the current ones; what is damaged goes into quarantine.

    Args:
        settings: outputs, and where images come from.
        run: its manifest has to be whole.
        progress: told of downloads, shards and predictions.

    Raises:
        DamagedError: its manifest is damaged, or the images or the archived weights are not those it was made from.
        PipelineError: whatever a stage refuses; the run is as it was then.
    """
    try:
        identity = run.manifest().identity
    except DamagedError as error:
        name = run.name
        raise DamagedError(
            f"{error}; it says with which weights the run was made: run its night again, `mnist-pipeline run "
            f"--dataset {name.dataset} --split {name.split} --run-date {name.run_date}`, or move {run.folder} away"
        ) from error
    weights = settings.outputs / WEIGHTS / f"{identity.weights_sha256}.safetensors"
    of_run = identity.model_dump(include={"run_date", "dataset", "split", "batch_rows", "shard_rows"})
    again = settings.model_copy(update={**of_run, "weights": weights})
    timings = Timings()
    with timings.measure("fetch"):
        source_images = open_images(again, progress)
    plan = make_plan(again, source_images)
    if plan.run_id != run.name.run_id:
        now = plan.identity.model_dump()
        other = [name for name, value in identity.model_dump().items() if now[name] != value]
        raise DamagedError(
            f"run {run.name.run_id}: expected what it was made from to make it again, got other {', '.join(other)}; "
            f"bring that back, or move {run.folder} away"
        )
    return evaluate_plan(plan, timings, progress)
