"""Cut what a tracker found in recordings into tracklets, embed them and search them.

``readers/`` has a module per tracker format; each fills the arrays of ``boxes.py``.
``numbering.py`` converts their frame numbers and pixels to those of the video, ``selection.py``
chooses the crops. ``videos.py`` decodes a video once from start to end, ``making.py`` saves the
crops, ``tree.py`` moves whole tracklets into place, and ``manifest.py`` records each.
``synthetic_footage.py`` draws videos with known tracks for demos and tests.
"""
