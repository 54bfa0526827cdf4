"""Readers of datasets on disk, which return the host's lists of tracklets; one file per dataset.

Readers turn folders, lists, tables and MATLAB files into checked lists; ``check.py`` reports what a
dataset lacks before a run finds it out; ``synthetic/`` draws pedestrians for those without data.
"""
