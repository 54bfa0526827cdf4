"""Lay out figures in inches with a caption below, and write reproducible PNG and SVG files.

Figures are created without pyplot's global state. Colours are those of Okabe and Ito and of maps
that stay in order for every kind of colour vision.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stmn_plugin.whole_files import whole_file

COLUMN, PAGE = 3.3, 6.9  # inches, of a two-column paper
TEXT = 7  # points
LINE = 0.135  # inches, of a line of text
MARGIN = 0.06
SEQUENTIAL, DIVERGING = 'cividis', 'PuOr_r'
BLACK, GREY = '#000000', '#7F7F7F'
BLUE, VERMILION = '#0072B2', '#D55E00'
FORMATS = ('png', 'svg')
STYLE: Any = {  # keys are a Literal of hundreds
    'font.size': TEXT,
    'font.family': 'DejaVu Sans',
    'text.parse_math': False,  # a name may hold $
    'axes.titlesize': TEXT,
    'axes.labelsize': TEXT,
    'axes.linewidth': 0.5,
    'xtick.labelsize': TEXT,
    'ytick.labelsize': TEXT,
    'xtick.major.width': 0.5,
    'ytick.major.width': 0.5,
    'xtick.major.size': 2,
    'ytick.major.size': 2,
    'svg.fonttype': 'none',  # text stays text
    'svg.hashsalt': 'stmn_plugin',
    'savefig.dpi': 300,
}
METADATA = {'png': {'Software': None}, 'svg': {'Date': None}}


class Sheet:
    """A figure laid out in inches from its top left corner.

    Args:
        width: inches.
        height: inches of the panels, without the caption.
        caption: description of the content and its source.
    """

    def __init__(self, width: float, height: float, caption: str):
        lines = wrap(caption, width - 3 * MARGIN)  # letters vary in width with the resolution
        self.width = width
        self.height = height + (len(lines) + 0.5) * LINE + MARGIN
        with matplotlib.rc_context(STYLE):
            self.figure = Figure(figsize=(self.width, self.height))
        self.text(MARGIN, height + LINE / 2, '\n'.join(lines), va='top')

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes at a place in inches."""
        with matplotlib.rc_context(STYLE):
            return self.figure.add_axes(
                (
                    left / self.width,
                    1 - (top + height) / self.height,
                    width / self.width,
                    height / self.height,
                )
            )

    def text(self, left: float, top: float, text: str, **style: Any) -> Text:
        """Add text at a place in inches."""
        style = {'fontsize': TEXT, 'linespacing': 1.15, **style}
        with matplotlib.rc_context(STYLE):
            return self.figure.text(left / self.width, 1 - top / self.height, text, **style)

    def picture(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        pixels: NDArray[np.uint8],
        frame: str = BLACK,
        line: float = 0.4,
    ) -> Axes:
        """Add a picture (h, w, 3) with a thin frame; its axes count in pixels."""
        axes = self.axes(left, top, width, height)
        axes.imshow(pixels, interpolation='none', aspect='auto')
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=frame, linewidth=line)
        return axes

    def colour_bar(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        limits: tuple[float, float],
        label: str,
        cmap: str,
        ticks: Sequence[float] | None = None,
    ) -> Axes:
        """Add a vertical colour bar with its label above."""
        axes = self.axes(left, top, width, height)
        shades = np.linspace(*limits, 128)[:, None]
        edges = np.linspace(*limits, 129)
        axes.pcolormesh([0, 1], edges, shades, cmap=cmap, rasterized=True)
        axes.set(xticks=[], ylim=limits)
        axes.yaxis.tick_right()
        if ticks is None:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        else:
            axes.set_yticks(ticks)
        axes.set_title(label, pad=3, fontsize=TEXT)
        return axes


def wrap(text: str, width: float) -> list[str]:
    """Break text into lines of at most ``width`` inches, also within words that are longer."""
    lines: list[str] = []
    for word in itertools.chain.from_iterable(_pieces(word, width) for word in text.split()):
        longer = f'{lines[-1]} {word}' if lines else word
        if lines and text_width(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _pieces(word: str, width: float) -> Iterator[str]:
    """Yield the longest parts of a word that fit a line; at least a letter each."""
    while text_width(word) > width and len(word) > 1:
        fits = next((n for n in range(len(word) - 1, 1, -1) if text_width(word[:n]) <= width), 1)
        yield word[:fits]
        word = word[fits:]
    yield word


def text_width(text: str) -> float:
    """Measure a line of text in inches, in the font and size of figures."""
    renderer = RendererAgg(1, 1, STYLE['savefig.dpi'])
    font = FontProperties(family=STYLE['font.family'], size=TEXT)
    width = renderer.get_text_width_height_descent(text, font, ismath=False)[0]
    return float(width / renderer.dpi)


def save_figure(
    figure: Figure, folder: str, name: str, formats: Sequence[str] = FORMATS
) -> list[str]:
    """Write ``folder/name.png`` and so on, each complete or not at all.

    Returns:
        The paths.

    Raises:
        InputError: a file cannot be written.
    """
    paths = []
    for kind in formats:
        path = os.path.join(folder, f'{name}.{kind}')
        with whole_file(path) as file, matplotlib.rc_context(STYLE):
            figure.savefig(file, format=kind, metadata=METADATA[kind])
        paths.append(path)
    return paths


def attention_bars(
    axes: Axes,
    attentions: Sequence[NDArray[np.floating]],
    colours: Sequence[str],
    step: float,
    width: float,
    highest: float,
) -> None:
    """Draw bars under frames ``step`` apart and ``width`` wide, and a line at average pooling.

    Args:
        axes: as wide as the strip.
        attentions: attentions (L,), drawn side by side.
        colours: a colour for each attention.
        step: distance of two frames in inches.
        width: width of a frame in inches.
        highest: end of the axis.
    """
    length = len(attentions[0])
    share = 0.8 / len(attentions)
    for nth, (attention, colour) in enumerate(zip(attentions, colours, strict=True)):
        shift = (nth - (len(attentions) - 1) / 2) * share * width
        places = np.arange(length) * step + width / 2 + shift
        axes.bar(places, attention, width=share * width, color=colour)
    axes.axhline(1 / length, color=GREY, linewidth=0.6, linestyle='--')
    axes.set(xlim=(0, (length - 1) * step + width), ylim=(0, highest), xticks=[])
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(pad=1)
