"""Folders of PNG and JPEG files."""
