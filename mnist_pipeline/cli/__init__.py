"""The command line: parses options, calls the package, prints results. Holds no logic of its own."""

# Importing a module registers its commands.
from mnist_pipeline.cli import evaluate, listing, operations, prepare, pruning, published, verdicts  # noqa: F401
from mnist_pipeline.cli.console import EXIT_CODES, app

__all__ = ["EXIT_CODES", "app"]
