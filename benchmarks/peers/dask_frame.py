"""Dask: `from_map` over the files, on two worker processes."""

import sys
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pyarrow.parquet as pq
from distributed import Client, LocalCluster

from benchmarks.peers.network import classify, load, write_summary


def classified(path: str, weights: str) -> pd.DataFrame:
    """The predictions of one file."""
    return pd.DataFrame(classify(load(weights), pq.read_table(path)))


def main(shards: Path, weights: Path, out: Path) -> None:
    """Classify every file of `shards`."""
    paths = sorted(map(str, shards.glob("*.parquet")))
    cluster: Any = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster):
        meta = classified(paths[0], str(weights)).iloc[:0]
        frame = dd.from_map(classified, paths, weights=str(weights), meta=meta)
        frame.to_parquet(out / "predictions", write_index=False)
    write_summary(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
