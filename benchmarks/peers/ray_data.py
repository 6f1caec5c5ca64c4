"""Ray Data: read_parquet, map_batches, write_parquet on two CPUs."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"

import pyarrow as pa
import ray

from benchmarks.peers.network import BATCH_ROWS, classify, load, write_summary


def main(shards: Path, weights: Path, out: Path) -> None:
    """Classify every file of `shards`."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    network = load(weights)

    def classified(batch: pa.Table) -> dict[str, Any]:
        return classify(network, batch)

    images = ray.data.read_parquet(str(shards))
    predictions = images.map_batches(classified, batch_size=BATCH_ROWS, batch_format="pyarrow", zero_copy_batch=True)
    predictions.write_parquet(str(out / "predictions"))
    write_summary(out)
    ray.shutdown()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
