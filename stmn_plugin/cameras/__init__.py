"""Recordings and what a tracker found in them → tracklets that can be embedded and searched.

``readers/`` has a module a tracker format, each of which makes the arrays of ``boxes.py``;
``numbering.py`` turns their frame numbers and pixels into those of the video, ``selection.py``
chooses the crops. ``videos.py`` decodes a video once from begin to end, ``making.py`` cuts and
saves, ``tree.py`` puts whole tracklets in place, and ``manifest.py`` keeps what is known of each.
``synthetic_footage.py`` draws videos with known tracks for demos and tests.
"""
