"""Choose the crops of a video: filters, sampling, and counts of what was left out and why."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stmn_plugin.errors import InputError
from stmn_plugin.labels import natural_key

from .boxes import Boxes, reasons
from .readers.options import Recording

OUTSIDE = 'outside the picture'
MOSTLY_OUTSIDE = 'less than half in the picture'
PAST_END = 'past the last frame'
PAST_BY_ONE = 'past the last frame by one (see --first-frame)'
NOT_SAMPLED = 'not sampled (--every, --max-frames)'
NO_PERSON = 'no person given (--persons)'
INSIDE = 0.5  # share of a box that must lie in the picture
FEW, FEW_SHARE = (
    3,
    0.01,
)  # boxes outside the pictures that are tolerated: number, or share if that is more


@dataclass(frozen=True)
class Filters:
    """Which boxes become crops.

    Attributes:
        classes: names of classes; () for all.
        min_confidence: None takes boxes without a confidence, too.
        min_height, min_width: of a box in the picture, pixels.
        min_frames: boxes of a track, before sampling.
        every: one of so many boxes of a track.
        max_frames: of a tracklet, evenly spread over the track; None for all.
        margin: added on each side, as a share of the box.
        tracks: ids of the tracks to keep; () for all.
    """

    classes: tuple[str, ...] = ()
    min_confidence: float | None = None
    min_height: int = 1
    min_width: int = 1
    min_frames: int = 1
    every: int = 1
    max_frames: int | None = None
    margin: float = 0.0
    tracks: tuple[str, ...] = ()


@dataclass
class Selection:
    """N crops in the order of their frames.

    Attributes:
        boxes: of the crops, clipped to the picture.
        crops: (N, 4) left, top, right, bottom in whole pixels, margin included.
        total_boxes, total_tracks: of the file.
        tracks_left_out: reason → number of tracks.
    """

    boxes: Boxes
    crops: NDArray[np.int64]
    total_boxes: int
    total_tracks: int
    tracks_left_out: Counter[str] = field(default_factory=Counter)

    @property
    def left_out(self) -> Counter[str]:
        """Reason → number of boxes."""
        return self.boxes.left_out


def select(path: object, boxes: Boxes, recording: Recording, filters: Filters) -> Selection:
    """Choose the crops.

    Raises:
        InputError: a track, class or confidences that the file does not have, more than a few boxes
            outside the picture, or nothing is left; names ``path``.
    """
    boxes = _of_tracks(path, boxes, filters.tracks)
    total, total_tracks = len(boxes) + boxes.left_out.total(), len(set(boxes.tracks.tolist()))
    size = np.array([recording.width, recording.height] * 2)
    clipped = boxes.corners.clip(0, size)
    inside = areas(clipped) / areas(boxes.corners)
    if too_many(int((inside <= 0).sum()), len(boxes)):
        raise InputError(
            f'{path}: {int((inside <= 0).sum()):,} of {len(boxes):,} boxes lie outside the picture '
            f'of {recording.name}, {recording.width} x {recording.height}; they '
            'belong to another video, or --picture-size must give the size that they belong to'
        )
    boxes = boxes.only(inside > 0, OUTSIDE)
    boxes = boxes.only(inside[inside > 0] >= INSIDE, MOSTLY_OUTSIDE)
    boxes.corners = boxes.corners.clip(0, size)
    boxes = _of_classes(path, boxes, filters.classes)
    boxes = _confident(path, boxes, filters.min_confidence)
    width, height = (boxes.corners[:, 2:] - boxes.corners[:, :2]).T
    smallest = f'smaller than {filters.min_width} x {filters.min_height} pixels'
    boxes = boxes.only((width >= filters.min_width) & (height >= filters.min_height), smallest)
    counts = np.bincount(boxes.tracks, minlength=len(boxes.track_ids))
    short = f'in tracks of fewer than {filters.min_frames} boxes'
    tracks_left_out = Counter({short: int(((counts > 0) & (counts < filters.min_frames)).sum())})
    boxes = boxes.only(counts[boxes.tracks] >= filters.min_frames, short)
    boxes = boxes.only(sampled(boxes, filters.every, filters.max_frames), NOT_SAMPLED)
    if not len(boxes):
        raise InputError(
            f'{path}: no track is left for {recording.name}; of {total:,} boxes '
            f'{reasons(boxes.left_out)}'
        )
    order = np.lexsort((boxes.tracks, boxes.frames))
    boxes = Boxes(
        boxes.frames[order],
        boxes.tracks[order],
        boxes.track_ids,
        boxes.corners[order],
        boxes.confidence[order],
        boxes.classes[order],
        boxes.class_names,
        boxes.left_out,
    )
    crops = crop_corners(boxes.corners, filters.margin, recording)
    return Selection(boxes, crops, total, total_tracks, +tracks_left_out)


def areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the areas (N,) of corners (N, 4)."""
    area: NDArray[np.float64] = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return area


def too_many(wrong: int, total: int) -> bool:
    """Return whether so many boxes outside the pictures mean a wrong base, size or video."""
    return wrong > max(FEW, FEW_SHARE * total)


def crop_corners(
    corners: NDArray[np.float64], margin: float, recording: Recording
) -> NDArray[np.int64]:
    """Return whole pixels (N, 4) that contain the boxes (N, 4) and a margin, within the picture."""
    grown = corners.copy()
    sides = corners[:, 2:] - corners[:, :2]
    grown[:, :2] -= margin * sides
    grown[:, 2:] += margin * sides
    whole = np.concatenate([np.floor(grown[:, :2]), np.ceil(grown[:, 2:])], axis=1)
    return whole.clip(0, [recording.width, recording.height] * 2).astype(np.int64)


def sampled(boxes: Boxes, every: int, max_frames: int | None) -> NDArray[np.bool_]:
    """Choose rows (N,): of each track one in ``every``, then at most ``max_frames``."""
    chosen = np.zeros(len(boxes), bool)
    order = np.lexsort((boxes.frames, boxes.tracks))
    for rows in np.split(order, np.flatnonzero(np.diff(boxes.tracks[order])) + 1):
        rows = rows[::every]
        if max_frames is not None and len(rows) > max_frames:
            # the middles of equal parts
            rows = rows[((np.arange(max_frames) + 0.5) * len(rows) / max_frames).astype(int)]
        chosen[rows] = True
    return chosen


def _of_tracks(path: object, boxes: Boxes, tracks: tuple[str, ...]) -> Boxes:
    if not tracks:
        return boxes
    unknown = [track for track in tracks if track not in boxes.track_ids]
    if unknown:
        known = ', '.join(sorted(boxes.track_ids, key=natural_key)[:10])
        raise InputError(f'{path}: has no track {unknown[0]}; it has {known}')
    selected = np.array([track in tracks for track in boxes.track_ids])
    return boxes.only(selected[boxes.tracks])


def _of_classes(path: object, boxes: Boxes, classes: tuple[str, ...]) -> Boxes:
    if not classes:
        return boxes
    unknown = [name for name in classes if name not in boxes.class_names]
    if len(unknown) == len(classes):
        known = ', '.join(sorted(filter(None, boxes.class_names))[:10])
        raise InputError(
            f'{path}: no box is of the class {unknown[0]}; --classes takes {known or "none here"}'
        )
    selected = np.array([name in classes for name in boxes.class_names])
    return boxes.only(selected[boxes.classes], 'of another class')


def _confident(path: object, boxes: Boxes, least: float | None) -> Boxes:
    if least is None:
        return boxes
    if len(boxes) and np.isnan(boxes.confidence).all():
        raise InputError(f'{path}: has no confidences, --min-confidence cannot be used')
    return boxes.only(boxes.confidence >= least, f'with a confidence below {least:g}')
