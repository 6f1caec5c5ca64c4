"""Checks everything a nightly run needs; see `diagnosis.py`."""
