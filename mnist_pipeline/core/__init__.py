"""Pure computation: NumPy and the standard library only.

It uses no paths, clock, environment, pyarrow or Prefect.
"""

DIGITS = 10
