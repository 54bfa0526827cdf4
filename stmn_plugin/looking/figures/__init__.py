"""The paper's figures by number, a file each: how it is drawn, what it needs, how it is made.

``draw`` of a file turns arrays and pictures into a matplotlib figure for a column or a page; its
``figure_N`` takes them from the explained run, the one it is compared with (or None) and options.
"""

from ..figure_parts import PaperFigure
from .attention_strips import figure_10
from .item_frames import figure_6
from .item_strips import figure_9
from .probability_maps import figure_5
from .refinement_maps import figure_7
from .retrieval import figure_8

FIGURES = {
    5: PaperFigure(figure_5, needs_any=('spatial_probs', 'temporal_probs')),
    6: PaperFigure(figure_6, needs=('spatial_probs',)),
    7: PaperFigure(figure_7, needs=('frame_norms', 'refined_norms')),
    8: PaperFigure(figure_8, shows_queries=True),
    9: PaperFigure(figure_9, needs=('temporal_probs', 'temporal_values')),
    10: PaperFigure(figure_10, needs=('attention',)),
}

__all__ = ['FIGURES', 'PaperFigure']
