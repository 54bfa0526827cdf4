"""Parts that the figures of a run share: requirements, options, thumbnails, captions."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from stmn_plugin.data.frames import BadFrame, read_frame
from stmn_plugin.models.explanations import EXPLANATIONS, missing_part

from .explained_run import ExplainedRun, RunOnTarget
from .hidden_folders import without_folders

HEIGHT, WIDTH = 128, 64  # pixels; enough for half an inch, and small in an SVG file
BEST = 'model-best'
CHOSEN = 'model-best is the epoch with the best result on the test data of its training run.'


class Options(NamedTuple):
    """Options of a figure."""

    items: int = 0  # number of items to show, drawn by the seed; 0 is all
    seed: int = 0


class CaptionedFigure(NamedTuple):
    """A figure and its caption."""

    figure: Figure
    caption: str


class PaperFigure(NamedTuple):
    """A figure of the paper, available for runs whose models explain what it needs."""

    make: Callable[[ExplainedRun, ExplainedRun | None, Options], CaptionedFigure]
    needs: tuple[str, ...] = ()  # names of ``models/explanations.py``, all required
    needs_any: tuple[str, ...] = ()  # at least one, of the run or the one compared
    shows_queries: bool = False

    def missing(self, run: RunOnTarget, against: RunOnTarget | None) -> str:
        """Say what the runs lack for this figure; '' if nothing."""
        if missing := missing_part(self.needs, run.explains):
            return missing
        explained = run.explains | (against.explains if against is not None else frozenset())
        if self.needs_any and not explained & {*self.needs_any}:
            parts = ' or '.join(f'{EXPLANATIONS[name].part} ({name})' for name in self.needs_any)
            return f'no model has a {parts}'
        if self.shows_queries and not run.selection.queries:
            return 'none of the tracklets is a query'
        return ''


def shown_items(num_items: int, options: Options) -> list[int]:
    """Return the memory items to show, in ascending order."""
    if not 0 < options.items < num_items:
        return list(range(num_items))
    rng = np.random.default_rng(options.seed)
    return sorted(rng.choice(num_items, size=options.items, replace=False).tolist())


def thumbnail(path: str, skip_bad: bool = False) -> NDArray[np.uint8]:
    """Read a frame and scale it down.

    Args:
        path: image file.
        skip_bad: an unreadable frame becomes grey instead of an error.

    Returns:
        (HEIGHT, WIDTH, 3).

    Raises:
        InputError: the frame cannot be read; with ``skip_bad`` only if the machine is the cause.
    """
    try:
        pixels = read_frame(path).permute(1, 2, 0).numpy()
    except BadFrame:
        if not skip_bad:
            raise
        return np.full((HEIGHT, WIDTH, 3), 127, dtype=np.uint8)
    image = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return np.asarray(image)


def thumbnail_of(run: ExplainedRun, row: int, frame: int) -> NDArray[np.uint8]:
    """Return the thumbnail of a frame of a tracklet."""
    return thumbnail(run.tracklets.all[row][0][frame], run.opened.embedder.skip_bad)


def strip_of(run: ExplainedRun, row: int, frames: Iterable[int]) -> list[NDArray[np.uint8]]:
    """Return the thumbnails of frames of a tracklet."""
    return [thumbnail_of(run, row, frame) for frame in frames]


def tracklet_title(run: RunOnTarget, row: int) -> str:
    """Return a tracklet's name as in MARS, or else its folders; ``--tracklets`` takes both."""
    path = Path(run.tracklets.all[row][0][0])
    name = re.fullmatch(r'(.+T\d+)F\d+', path.stem)
    return name[1] if name else '/'.join(path.parts[-3:-1])


def short_name(run: ExplainedRun) -> str:
    """Return the last part of a run's path, for titles; the caption has all of it."""
    return os.path.basename(run.name.rstrip(os.sep)) or run.name


def models_and_data(*runs: ExplainedRun) -> str:
    """Describe models and data, the end of every caption."""
    models = '; '.join(f'{without_folders(run.name)} ({run.weights})' for run in runs)
    chosen = f' {CHOSEN}' if any(BEST in run.weights for run in runs) else ''
    return f'Model: {models}.{chosen} Data: {runs[0].data_line}.'
