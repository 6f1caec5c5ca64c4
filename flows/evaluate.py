"""The flow mnist-evaluation, and its backfill.

wait for data -> fetch -> plan -> shards -> predictions -> publish -> judge -> report

Defines order and parallelism of the steps; does no arithmetic and touches no file. Without Prefect the same order
stands in `pipeline/nightly.py`: one sequence for both would have to hide tasks and plain calls behind each other, and
neither file would read from top to bottom. tests/test_flows.py holds the two to the same files.
"""

from prefect.client.schemas.objects import State

from mnist_pipeline.orchestration import tasks
from mnist_pipeline.orchestration.flow_runs import configured_parameters, ending, flow, flow_run_name, logical_date
from mnist_pipeline.orchestration.runners import over_groups, started_runner
from mnist_pipeline.pipeline.arrival import awaited
from mnist_pipeline.pipeline.evaluation import Timings, looked_at, reserve
from mnist_pipeline.pipeline.judging import Judged
from mnist_pipeline.settings import (
    Activation,
    AnyLocation,
    ClusterAddress,
    ColumnName,
    DatasetName,
    DatedLocation,
    LocalPath,
    PixelScale,
    Rows,
    RunDate,
    Runner,
    SplitName,
    WaitMinutes,
    Workers,
    load_settings,
)


@flow(name="mnist-evaluation", flow_run_name=flow_run_name("evaluate"))
def evaluate(
    dataset: DatasetName | None = None,
    split: SplitName | None = None,
    run_date: RunDate | None = None,
    weights: DatedLocation | None = None,
    activation: Activation | None = None,
    batch_rows: Rows | None = None,
    shard_rows: Rows | None = None,
    workers: Workers | None = None,
    runner: Runner | None = None,
    cluster: ClusterAddress | None = None,
    images: DatedLocation | None = None,
    data_dir: DatedLocation | None = None,
    image_column: ColumnName | None = None,
    label_column: ColumnName | None = None,
    id_column: ColumnName | None = None,
    labels: DatedLocation | None = None,
    pixel_scale: PixelScale | None = None,
    invert: bool | None = None,
    transpose: bool | None = None,
    wait_for_data_minutes: WaitMinutes | None = None,
    cache: LocalPath | None = None,
    outputs: AnyLocation | None = None,
    report: bool | None = None,
    config: LocalPath | None = None,
) -> Judged | State[Judged]:
    """Evaluate a network on one split of a data set, publish the run and judge it.

    The flow run ends as Completed, or as Rejected if the verdict fails; the run stays published either way.

    Args:
        dataset: data set to evaluate.
        split: split of the data set.
        run_date: UTC calendar date of the run; the date of the scheduled start if left out.
        weights: weights file; the current ones, promoted last or shipped, if left out. As images, data_dir and labels
            it may have the run date in it: {run_date}, or {run_date:%Y/%m/%d}.
        activation: of the hidden layers, sigmoid or relu, of weights that do not say it; none if left out.
        batch_rows: images per forward pass.
        shard_rows: images per Parquet file.
        workers: threads or processes that work at once; one a core if left out.
        runner: kind of worker: threads, processes, or those of a Dask cluster.
        cluster: address of the Dask scheduler; a temporary cluster on this machine if left out.
        images: file of images (Parquet, CSV, NPZ), or folder of them or of PNG and JPEG, on disk or in a bucket; the
            data set needs its own name. None if left out.
        data_dir: folder with IDX files, on disk or in a bucket, asked before any other source; none if left out.
        image_column: column or array of the images, where a file may mean several; none if left out.
        label_column: column of the labels in the images; `none` if they have none; `label` if left out.
        id_column: column or array of the images' own names; they have none if left out.
        labels: Parquet or CSV file of labels that came later than the images; none if left out.
        pixel_scale: pixel value of full ink, 1 or 255; 255 for integers and 1 for floats if left out.
        invert: whether the images are black on white; no if left out.
        transpose: whether the images are stored column by column; no if left out.
        wait_for_data_minutes: minutes to wait for images, data_dir and labels that are not there yet.
        cache: folder of the verified source files; that of the worker's user if left out.
        outputs: folder of shards, runs and history, or s3://BUCKET/PREFIX; that of the deployment if left out.
        report: whether to write the report of the run.
        config: TOML file laid over the project's own configuration; none if left out.
    """
    settings = load_settings(
        config,
        configured_parameters(),
        dataset=dataset,
        split=split,
        run_date=run_date or logical_date(),
        weights=weights,
        activation=activation,
        batch_rows=batch_rows,
        shard_rows=shard_rows,
        workers=workers,
        runner=runner,
        cluster=cluster,
        images=images,
        data_dir=data_dir,
        image_column=image_column,
        label_column=label_column,
        id_column=id_column,
        labels=labels,
        pixel_scale=pixel_scale,
        invert=invert,
        transpose=transpose,
        wait_for_data_minutes=wait_for_data_minutes,
        cache=cache,
        outputs=outputs,
        report=report,
    )
    if awaited(settings):
        tasks.wait_for_data(settings)
    timings = Timings()
    with timings.measure("fetch"):
        source_images = tasks.open_images(settings)
    plan = tasks.make_plan(settings, source_images)
    with reserve(plan) as staging:
        with started_runner(settings) as task_runner:
            with timings.measure("shard"):
                sharded = over_groups(task_runner, plan, "shards", plan.build_groups, tasks.build_shards)
            plan = looked_at(plan, sharded)
            with timings.measure("predict"):
                predicted = over_groups(
                    task_runner, plan, "predictions", plan.groups, tasks.predict_shards, staging=staging
                )
        published = tasks.publish(plan, staging, [checkpoint for group in predicted for checkpoint in group], timings)
    judged = tasks.judge(settings, published)
    if settings.report:
        tasks.report(settings, judged)
    return ending(judged)


@flow(name=evaluate.name, flow_run_name=flow_run_name("evaluate"))
def backfill(
    run_date: RunDate,
    dataset: DatasetName | None = None,
    split: SplitName | None = None,
    weights: DatedLocation | None = None,
    activation: Activation | None = None,
    images: DatedLocation | None = None,
    data_dir: DatedLocation | None = None,
    image_column: ColumnName | None = None,
    label_column: ColumnName | None = None,
    id_column: ColumnName | None = None,
    labels: DatedLocation | None = None,
    pixel_scale: PixelScale | None = None,
    invert: bool | None = None,
    transpose: bool | None = None,
    wait_for_data_minutes: WaitMinutes | None = None,
    outputs: AnyLocation | None = None,
    config: LocalPath | None = None,
) -> Judged | State[Judged]:
    """Evaluate one missing run date, publish the run and judge it, as the nightly evaluation does.

    The run date has to be given: Prefect's server then refuses a run without it, which would evaluate today. The runs
    are evaluations like the others, and so is the name of the flow.

    Args:
        run_date: UTC calendar date of the run.
        dataset: data set to evaluate.
        split: split of the data set.
        weights: weights file; the current ones, promoted last or shipped, if left out. As images, data_dir and labels
            it may have the run date in it: {run_date}, or {run_date:%Y/%m/%d}.
        activation: of the hidden layers, sigmoid or relu, of weights that do not say it; none if left out.
        images: file of images (Parquet, CSV, NPZ), or folder of them or of PNG and JPEG, on disk or in a bucket; the
            data set needs its own name. None if left out.
        data_dir: folder with IDX files, on disk or in a bucket, asked before any other source; none if left out.
        image_column: column or array of the images, where a file may mean several; none if left out.
        label_column: column of the labels in the images; `none` if they have none; `label` if left out.
        id_column: column or array of the images' own names; they have none if left out.
        labels: Parquet or CSV file of labels that came later than the images; none if left out.
        pixel_scale: pixel value of full ink, 1 or 255; 255 for integers and 1 for floats if left out.
        invert: whether the images are black on white; no if left out.
        transpose: whether the images are stored column by column; no if left out.
        wait_for_data_minutes: minutes to wait for images, data_dir and labels that are not there yet.
        outputs: folder of shards, runs and history, or s3://BUCKET/PREFIX; that of the deployment if left out.
        config: TOML file laid over the project's own configuration; none if left out.
    """
    return evaluate.fn(
        run_date=run_date,
        dataset=dataset,
        split=split,
        weights=weights,
        activation=activation,
        images=images,
        data_dir=data_dir,
        image_column=image_column,
        label_column=label_column,
        id_column=id_column,
        labels=labels,
        pixel_scale=pixel_scale,
        invert=invert,
        transpose=transpose,
        wait_for_data_minutes=wait_for_data_minutes,
        outputs=outputs,
        config=config,
    )
