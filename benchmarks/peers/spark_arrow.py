"""Spark: mapInArrow over the files, local[2]."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from benchmarks.peers.network import BATCH_ROWS, classify, load, write_summary


def main(shards: Path, weights: Path, out: Path) -> None:
    """Classify every file of `shards`."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    options = {
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "4g",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
        # One task per file: with smaller tasks Spark starts the Python function again for each split of a file.
        "spark.sql.files.maxPartitionBytes": "64m",
    }
    builder = SparkSession.builder.master("local[2]")
    for name, value in options.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    network = load(weights)

    def classified(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = classify(network, pa.table(batch))
            yield pa.RecordBatch.from_arrays([pa.array(values) for values in columns.values()], list(columns))

    schema = "image_id long, label byte, prediction byte, " + ", ".join(f"proba_{digit} float" for digit in range(10))
    spark.read.parquet(str(shards)).mapInArrow(classified, schema).write.parquet(str(out / "predictions"))
    spark.stop()
    write_summary(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
