"""Train a model on clips, and write its checkpoints and the files of the run.

Start reading at ``trainer.py``: a run, an epoch and a step from top to bottom. A run that is killed
at any moment resumes bit by bit, and no partially written file looks like a result. ``one_shot.py``
chooses the pseudo-labels of one-shot learning.
"""
