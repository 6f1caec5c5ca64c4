"""Pure computation: NumPy and the standard library only.

Nothing here knows a path, the clock, the environment, pyarrow or Prefect.
"""
