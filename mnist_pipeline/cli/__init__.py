"""The command line: parses options, calls the package, prints results. Holds no logic of its own."""

import gc

# Modules are no garbage: at the default the collector would take a tenth of a short command's time to find none.
gc.set_threshold(100_000)

# Importing a module registers its commands.
from mnist_pipeline.cli import (  # noqa: E402
    evaluate,  # noqa: F401
    listing,  # noqa: F401
    operations,  # noqa: F401
    prepare,  # noqa: F401
    pruning,  # noqa: F401
    published,  # noqa: F401
    verdicts,  # noqa: F401
)
from mnist_pipeline.cli.console import EXIT_CODES, app  # noqa: E402

__all__ = ["EXIT_CODES", "app"]
