"""The command line: parses options, calls the package, prints results. Holds no logic of its own."""

import atexit
import gc
import os
import signal

# Modules are no garbage, and what is left at the end goes with the process: at its defaults the collector takes a third
# of a short command's time to look through them.
gc.set_threshold(200_000)
atexit.register(gc.freeze)
# A second SIGTERM while the interpreter ends, when the handlers are gone, would replace the exit code of the first.
atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
# Nor does a command look through all that is installed for plugins of Pydantic.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

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
