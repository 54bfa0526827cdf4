"""A model and clips → trained weights, checkpoints, and the run's files.

Begin with ``trainer.py``: a run, an epoch and a step from top to bottom. Whatever moment a run is
killed at, it resumes bit by bit; nothing half-written looks like a result.
"""
