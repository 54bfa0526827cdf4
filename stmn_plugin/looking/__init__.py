"""Examine a trained run: views of clips, measures, figures and the report page.

``opened_run.py`` opens a run; ``explained_run.py`` lets its model explain every clip of a target,
collects statistics (``clip_statistics.py``) and the truth about synthetic frames
(``clip_truth.py``). ``figures/`` and ``measures/`` each declare which names of
``models/explanations.py`` they need; ``report/`` writes the page, for any model.
"""
