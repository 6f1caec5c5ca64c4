"""The console command: parse, call, print. Everything it does can be done from Python as well."""

# Importing a module adds its commands; the order is that of --help.
from mnist_pipeline.cli import evaluate, published, verdicts, prepare, operations  # noqa: F401, I001
from mnist_pipeline.cli.console import EXIT_CODES, app

__all__ = ["EXIT_CODES", "app"]
