"""Data sets: catalogue, sources, input formats, and the shards written from them."""
