"""Readers of datasets on disk, which return the host's lists of tracklets.

``host_datasets.py`` repairs the host's MARS and DukeMTMC-VideoReID, ``two_cameras.py`` iLIDS-VID
and PRID2011; ``lsvid.py`` and ``tracklets.py`` (own data) are new. ``check.py`` reports what a
dataset lacks before a run finds it out; ``synthetic/`` draws pedestrians for those without data.
"""
