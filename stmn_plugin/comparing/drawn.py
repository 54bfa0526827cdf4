"""What the figures of a run have in common: results, options, pictures, titles, captions."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .handed_on import without_folders
from .pictures import picture

BEST = 'model-best'
CHOSEN = 'model-best is the epoch that did best on what its training run was tested on.'


class Options(NamedTuple):
    items: int = 0  # that many are shown, drawn by the seed; 0 is all
    seed: int = 0


class Drawn(NamedTuple):
    figure: object
    caption: str


def shown_items(num_items, options):
    """Items that are shown, ascending."""
    if not 0 < options.items < num_items:
        return list(range(num_items))
    rng = np.random.default_rng(options.seed)
    return sorted(rng.choice(num_items, size=options.items, replace=False).tolist())


def picture_of(subject, row, frame):
    """A frame of a tracklet as it is drawn."""
    paths = subject.collection.tracklets[row][0]
    return picture(paths[frame], subject.engine.datamanager.skip_bad)


def strip_of(subject, row, frames):
    """Frames of a tracklet as they are drawn."""
    return [picture_of(subject, row, frame) for frame in frames]


def title_of(subject, row):
    """A tracklet's name as in MARS, else its folders'; ``--tracklets`` takes both."""
    path = Path(subject.collection.tracklets[row][0][0])
    name = re.fullmatch(r'(.+T\d+)F\d+', path.stem)
    return name[1] if name else '/'.join(path.parts[-3:-1])


def made_from(*subjects):
    """The end of every caption."""
    models = '; '.join(
        f'{without_folders(subject.name)} ({subject.weights})' for subject in subjects
    )
    chosen = f' {CHOSEN}' if any(BEST in subject.weights for subject in subjects) else ''
    return f'Model: {models}.{chosen} Data: {subjects[0].data_in_words}.'
