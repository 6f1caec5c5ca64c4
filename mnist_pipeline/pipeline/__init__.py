"""The pipeline steps as plain functions: settings in, results out. Does not import Prefect."""
