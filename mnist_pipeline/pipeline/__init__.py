"""The steps as plain functions: settings in, results out. Knows no Prefect."""
