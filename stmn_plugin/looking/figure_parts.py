"""Parts that the figures of a run share: options, thumbnails, titles, ends of captions."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .hidden_folders import without_folders
from .thumbnails import thumbnail

BEST = 'model-best'
CHOSEN = 'model-best is the epoch that did best on what its training run was tested on.'


class Options(NamedTuple):
    items: int = 0  # that many are shown, drawn by the seed; 0 is all
    seed: int = 0


class CaptionedFigure(NamedTuple):
    figure: object
    caption: str


def shown_items(num_items, options):
    """The memory items that are shown, ascending."""
    if not 0 < options.items < num_items:
        return list(range(num_items))
    rng = np.random.default_rng(options.seed)
    return sorted(rng.choice(num_items, size=options.items, replace=False).tolist())


def thumbnail_of(subject, row, frame):
    """The thumbnail of a frame of a tracklet."""
    paths = subject.collection.tracklets[row][0]
    return thumbnail(paths[frame], subject.engine.datamanager.skip_bad)


def strip_of(subject, row, frames):
    """The thumbnails of some frames of a tracklet."""
    return [thumbnail_of(subject, row, frame) for frame in frames]


def tracklet_title(subject, row):
    """A tracklet's name as in MARS, else its folders'; ``--tracklets`` takes both."""
    path = Path(subject.collection.tracklets[row][0][0])
    name = re.fullmatch(r'(.+T\d+)F\d+', path.stem)
    return name[1] if name else '/'.join(path.parts[-3:-1])


def models_and_data(*subjects):
    """The end of every caption: which models and which data it shows."""
    models = '; '.join(
        f'{without_folders(subject.name)} ({subject.weights})' for subject in subjects
    )
    chosen = f' {CHOSEN}' if any(BEST in subject.weights for subject in subjects) else ''
    return f'Model: {models}.{chosen} Data: {subjects[0].data_in_words}.'
