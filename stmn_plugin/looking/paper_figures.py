"""Numbers of the paper's figures → what draws them from a run, and why a run cannot have one.

The reasons are found in an opened run, before anything of it is computed.
"""

from typing import NamedTuple

from .figures_of_effects import figure_7, figure_8, figure_10
from .figures_of_items import figure_5, figure_6, figure_9
from .subject import has_memory


class PaperFigure(NamedTuple):
    draw: object  # (Subject, another one or None, Options) → CaptionedFigure
    missing: object  # (Opened, another one or None) → what it lacks for this figure, '' for nothing


def any_memory(run, against):
    return '' if any(has_memory(one) for one in (run, against) if one) else 'no run has a memory'


def spatial_memory(run, against):
    return '' if run.cfg.stmn.spatial_mode == 'memory' else 'the model has no spatial memory'


def temporal_memory(run, against):
    return '' if run.cfg.stmn.temporal_mode == 'memory' else 'the model has no temporal memory'


def temporal_attention(run, against):
    averages = run.cfg.stmn.temporal_mode == 'average'
    return 'the model averages over time, it has no temporal attention' if averages else ''


def refined_queries(run, against):
    none = '' if run.choice.queries else 'none of the tracklets is a query'
    return spatial_memory(run, against) or none


FIGURES = {
    5: PaperFigure(figure_5, any_memory),
    6: PaperFigure(figure_6, spatial_memory),
    7: PaperFigure(figure_7, spatial_memory),
    8: PaperFigure(figure_8, refined_queries),
    9: PaperFigure(figure_9, temporal_memory),
    10: PaperFigure(figure_10, temporal_attention),
}
