"""From recordings to answers: cut tracklets, embed and search them, and export the model.

``readers/`` has a module per tracker format; each fills the arrays of ``boxes.py``.
``numbering.py`` converts their frame numbers and pixels to those of the video, ``selection.py``
chooses the crops. ``videos.py`` decodes a video once from start to end, ``making.py`` saves the
crops, ``tree.py`` moves whole tracklets into place, and ``manifest.py`` records each.
``index/`` stores their features. ``asking.py`` makes queries, ``searching.py`` finds and
``answers.py`` and ``answer_page.py`` show the nearest tracklets. ``exporting.py`` and
``quantising.py`` write a model as files that run elsewhere, ``hub.py`` shares its weights.
``synthetic_footage.py`` draws videos with known tracks for demos and tests.
"""
