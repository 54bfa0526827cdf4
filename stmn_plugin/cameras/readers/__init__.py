"""Tracker formats, a module each: ``read(path, recording, options) -> Boxes``.

A reader takes the file as its tool writes it. Rows without a track are counted and left out, and
anything outside the format is an error that names file and line. ``formats.py`` lists them.
"""
