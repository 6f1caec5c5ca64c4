"""The flow mnist-maintenance: verifies every published byte, and prunes if a retention is configured."""

from mnist_pipeline.maintenance.verification import require_sound
from mnist_pipeline.orchestration import tasks
from mnist_pipeline.orchestration.flow_runs import flow
from mnist_pipeline.settings import AnyLocation, LocalPath, load_settings


@flow(name="mnist-maintenance", flow_run_name="maintenance")
def maintenance(outputs: AnyLocation | None = None, config: LocalPath | None = None) -> None:
    """Verify runs, verdicts, decisions, shards and weights; prune by `retention`; fail if anything is damaged.

    Args:
        outputs: folder of the published runs; that of the deployment if left out.
        config: TOML file laid over the project's own configuration; none if left out.
    """
    settings = load_settings(config, outputs=outputs)
    verified = tasks.verify(settings)
    pruned = tasks.prune(settings)
    tasks.show_findings(settings, verified, pruned)
    require_sound(verified)
