"""Reads and writes weights files without executing anything in them; holds the weights that ship with the package."""
