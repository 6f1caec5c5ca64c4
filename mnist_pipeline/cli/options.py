"""The options that several commands share. Omitted options come from config and environment."""

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[str | None, typer.Option(help="Data set, as named in the config (mnist).", show_default=False)]
Split = Annotated[str | None, typer.Option(help="Split of the data set (test).", show_default=False)]
Weights = Annotated[
    str | None,
    typer.Option(help="Weights: .safetensors, .npz or the book's .pkl (the current ones).", show_default=False),
]
RunDate = Annotated[str | None, typer.Option(help="UTC date of the run, YYYY-MM-DD (today).", show_default=False)]
BatchRows = Annotated[int | None, typer.Option(help="Images per forward pass (as in the config).", show_default=False)]
ShardRows = Annotated[int | None, typer.Option(help="Images per Parquet file (as in the config).", show_default=False)]
Workers = Annotated[
    int | None, typer.Option(help="Threads or processes that work at once (one a core).", show_default=False)
]
Runner = Annotated[
    str | None, typer.Option(help="Kind of worker: threads, processes or dask (threads).", show_default=False)
]
Cluster = Annotated[
    str | None, typer.Option(help="Dask scheduler, tcp://HOST:PORT; for --runner dask.", show_default=False)
]
Images = Annotated[
    Path | None,
    typer.Option(help="Parquet file, or folder of them, with the images; needs --dataset NAME.", show_default=False),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder with IDX files, asked before any other source.", show_default=False)
]
Cache = Annotated[
    Path | None, typer.Option(help="Folder of the verified source files (the user's cache).", show_default=False)
]
Outputs = Annotated[
    str | None,
    typer.Option(help="Folder of shards, runs and history, or s3://BUCKET/PREFIX (outputs, here).", show_default=False),
]
Report = Annotated[
    bool | None, typer.Option("--report/--no-report", help="Write the report of the run (yes).", show_default=False)
]
Config = Annotated[Path | None, typer.Option(help="TOML file laid over the defaults.", show_default=False)]
Project = Annotated[Path, typer.Option(help="Folder with prefect.yaml (this one).", show_default=False)]
Direct = Annotated[bool, typer.Option("--direct", help="Run the same steps in this process, without Prefect.")]
WhichRun = Annotated[str, typer.Argument(metavar="RUN", help="A run_id, a run date, or latest.")]
