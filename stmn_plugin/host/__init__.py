"""The plugin inside torchreid: its registries, its engine, and runs from a config.

``registration.py`` is the only file that knows the host's private names, ``runner.py`` runs a
config, and ``one_shot.py`` runs the steps of one-shot learning.
"""
