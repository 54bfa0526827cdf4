"""The paper's figures by number, one file per figure.

``draw`` makes a matplotlib figure, as wide as a column or a page, from arrays and pictures;
``figure_N`` takes these from the explained run, a run to compare it with (or None) and options.
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
