"""Prefect round the stages: the only folder of the package that imports it."""
