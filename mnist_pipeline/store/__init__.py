"""Bytes under names, on disk or in an object store. Knows no formats of ours and no domain."""
