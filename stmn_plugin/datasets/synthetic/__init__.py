"""Drawn pedestrians under drawn cameras, in MARS layout, with the truth about every frame.

Reading path: ``spec.py`` (how much of what) -> ``look.py`` (who) -> ``canvas.py``, ``person.py``
(drawn) -> ``props.py``, ``textures.py``, ``scene.py`` (cameras) -> ``motion.py`` (patterns) ->
``tracklet.py`` (one pass), ``footage.py`` (whole pictures) -> ``workers.py``,
``writer.py`` (files) -> ``truth.py`` (read back) -> ``painted.py`` (changed frames),
``contact_sheet.py`` (a picture of the persons).
"""

from .contact_sheet import contact_sheet
from .painted import ensure_changed, ensure_painted, ensure_preset, mask_below, paint_out
from .spec import GENERATOR_VERSION, PRESETS, SyntheticSpec
from .truth import Truth, load_truth
from .writer import ensure, generate

__all__ = [
    'GENERATOR_VERSION',
    'PRESETS',
    'SyntheticSpec',
    'Truth',
    'contact_sheet',
    'ensure',
    'ensure_changed',
    'ensure_painted',
    'ensure_preset',
    'generate',
    'load_truth',
    'mask_below',
    'paint_out',
]
