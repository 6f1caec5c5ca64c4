"""Bytes <-> disk: raw files, weights, shards, published runs. Takes values, never the settings object."""
