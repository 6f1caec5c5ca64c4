"""`python -m mnist_pipeline`, the same as the command `mnist-pipeline`."""

from mnist_pipeline.cli import app

app()
