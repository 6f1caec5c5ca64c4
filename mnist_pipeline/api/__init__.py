"""What people import: published runs and verdicts as pandas frames, and the functions of the book."""

from mnist_pipeline.api.book import get_data, init_network, load_mnist
from mnist_pipeline.api.comparison import Compared, compare
from mnist_pipeline.api.history import load_history, load_predictions
from mnist_pipeline.api.runs import load_images, load_run, run_files

__all__ = [
    "Compared",
    "compare",
    "get_data",
    "init_network",
    "load_history",
    "load_images",
    "load_mnist",
    "load_predictions",
    "load_run",
    "run_files",
]
