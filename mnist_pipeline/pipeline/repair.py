"""Repairs a damaged run: recomputes it from the archived weights and the same images, and publishes it again."""

from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.index import try_index
from mnist_pipeline.pipeline.evaluation import Published, Timings, evaluate_plan
from mnist_pipeline.pipeline.inputs import open_images
from mnist_pipeline.pipeline.planning import make_plan
from mnist_pipeline.runs.run import Run
from mnist_pipeline.settings import Settings


def repair(settings: Settings, run: Run, progress: Progress = silent) -> Published:
    """Publish a damaged run again with its own weights, not the current ones; quarantine the damaged files.

    Args:
        settings: the outputs folder and the source of the images.
        run: the damaged run; its manifest must be intact.
        progress: callback for downloads, shards and predictions.

    Raises:
        DamagedError: its manifest is damaged, or the images or the archived weights have changed since.
        PipelineError: a step failed; the run is unchanged then.
    """
    try:
        identity = run.manifest().identity
    except DamagedError as error:
        name = run.name
        raise DamagedError(
            f"{error}; it says with which weights the run was made: run its night again, `mnist-pipeline run "
            f"--dataset {name.dataset} --split {name.split} --run-date {name.run_date}`, or move {run.folder} away"
        ) from error
    network = run.outputs.load_weights(identity.weights_sha256)
    of_run = identity.model_dump(include={"run_date", "dataset", "split", "batch_rows", "shard_rows"})
    again = settings.on(identity.run_date).model_copy(update=of_run)
    timings = Timings()
    with timings.measure("fetch"):
        source_images = open_images(again, progress)
    plan = make_plan(again, source_images, network)
    if plan.run_id != run.name.run_id:
        now = plan.identity.model_dump()
        other = [name for name, value in identity.model_dump().items() if now[name] != value]
        raise DamagedError(
            f"run {run.name.run_id}: expected what it was made from to make it again, got other {', '.join(other)}; "
            f"bring that back, or move {run.folder} away"
        )
    published = evaluate_plan(plan, timings, progress)
    try_index(run.outputs, plan.run_id)
    return published
