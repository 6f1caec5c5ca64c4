"""Weights files <-> Network, executing nothing that a file names; and the weights that ship with the package."""
