"""The command line: parses options, calls the package, prints results. Holds no logic of its own."""

# Importing a module registers its commands; the order is that of --help.
from mnist_pipeline.cli import evaluate, published, verdicts, prepare, operations  # noqa: F401, I001
from mnist_pipeline.cli.console import EXIT_CODES, app

__all__ = ["EXIT_CODES", "app"]
