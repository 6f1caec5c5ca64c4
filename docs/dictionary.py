"""Writes docs/data-dictionary.md from the declared schemas (`make docs`); a test compares the page with them."""

from pathlib import Path

from mnist_pipeline.tables import KEY, SCHEMA_VERSION, TABLES, Column, Table

PAGE = Path(__file__).with_name("data-dictionary.md")
PATHS = {
    "images": "shards/SET/images/part-*.parquet",
    "predictions": "runs/RUN_ID/predictions/part-*.parquet",
    "summary": "runs/RUN_ID/summary.parquet",
    "confusion": "runs/RUN_ID/confusion.parquet",
    "reliability": "runs/RUN_ID/reliability.parquet",
    "inputs": "runs/RUN_ID/inputs.parquet",
    "comparison": "verdicts/RUN_ID/VERDICT_ID/comparison.parquet",
    "flips": "verdicts/RUN_ID/VERDICT_ID/flips.parquet",
    "gates": "verdicts/RUN_ID/VERDICT_ID/gates.parquet",
    "history": "history.parquet",
    "runs": "runs.parquet",
}


def render() -> str:
    """The whole page as Markdown."""
    head = [
        "# Data dictionary",
        "",
        f"Every Parquet table below `outputs/`, schema version {SCHEMA_VERSION}. Written by `make docs` from the",
        "declarations in `mnist_pipeline/tables/schemas.py`; each file carries the same descriptions in its schema.",
    ]
    return "\n".join(head + [line for table in TABLES for line in _section(table)]) + "\n"


def _section(table: Table) -> list[str]:
    pandas = table.schema.empty_table().to_pandas().dtypes
    rows = [
        f"| `{column.name}` | {_arrow_name(column)} | {pandas[column.name]} | {'yes' if column.nullable else 'no'} | "
        f"{column.description} |"
        for column in table.columns
    ]
    return [
        "",
        f"## {table.name}",
        "",
        f"`outputs/{PATHS[table.name]}`: {table.row}.",
        "",
        "| column | Arrow | pandas | null? | meaning |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _arrow_name(column: Column) -> str:
    names = {"float": "float32", "double": "float64", str(KEY): "dictionary of string"}
    return names.get(str(column.type), str(column.type))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
