"""Readers of input formats: one module per format, each returns an `OpenSplit`."""
