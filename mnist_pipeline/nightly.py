"""A whole night in this process: evaluate, judge, report. The flow in `flows/evaluate.py` chains the same as tasks."""

from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.judge import Judged, judge_published
from mnist_pipeline.reporter import try_report
from mnist_pipeline.settings import Settings
from mnist_pipeline.stages import evaluate


def run_night(settings: Settings, progress: Progress = silent) -> Judged:
    """Publish a run, judge it, and write its report if the settings want one.

    Raises:
        PipelineError: whatever a stage refuses; nothing new is visible then.
    """
    judged = judge_published(settings, evaluate(settings, progress))
    if settings.report:
        try_report(settings.outputs, judged.published.run_id)
    return judged
