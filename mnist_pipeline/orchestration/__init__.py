"""Wraps the pipeline steps in Prefect: the only folder of the package that imports it."""
