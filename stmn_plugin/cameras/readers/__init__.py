"""Tracker formats, a module each: ``read(path, recording, options) -> Boxes``.

A reader takes the file as its tool writes it. It counts and leaves out rows without a track, and
rejects anything else with an error that names file and line. ``formats.py`` lists the formats.
"""
