"""A loop over the files in one process: pyarrow decodes, NumPy classifies, pandas writes."""

import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from benchmarks.peers.network import classify, load, write_summary


def main(shards: Path, weights: Path, out: Path) -> None:
    """Classify every file of `shards`."""
    network = load(weights)
    (out / "predictions").mkdir(parents=True)
    for path in sorted(shards.glob("*.parquet")):
        frame = pd.DataFrame(classify(network, pq.read_table(path)))
        frame.to_parquet(out / "predictions" / path.name)
    write_summary(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
