"""A trained run → what its model does: views of clips, measures, figures, the page of the run.

``opened_run.py`` opens a run; ``explained_run.py`` asks its model about every clip of a target
(``clip_views.py``), keeps statistics (``clip_statistics.py``) and what is known of synthetic frames
(``clip_truth.py``). ``figures/`` and ``measures/`` each say which names of
``models/explanations.py`` they need; ``report/`` makes the page, of any model.
"""
