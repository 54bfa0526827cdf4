"""A model and clips → trained weights: steps, epochs, checkpoints, and the run's files.

Whatever moment a run is killed at, it resumes bit by bit; nothing half-written looks like a result.
"""
