"""Numbers of the paper's figures → the functions that draw them from a run."""

from .figures_of_effects import figure_7, figure_8, figure_10
from .figures_of_items import figure_5, figure_6, figure_9

FIGURES = {
    5: figure_5,
    6: figure_6,
    7: figure_7,
    8: figure_8,
    9: figure_9,
    10: figure_10,
}
