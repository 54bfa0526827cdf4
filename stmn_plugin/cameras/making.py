"""Cut the tracks of a video into folders of crops of a tree, and add them to its manifest."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from stmn_plugin.errors import InputError
from stmn_plugin.labels import UNKNOWN_PERSON
from stmn_plugin.numerals import counted
from stmn_plugin.whole_files import write_errors

from .boxes import Boxes, reasons
from .manifest import ManifestEntry, clock_time, read_manifest
from .numbering import read_tracks
from .readers.options import Recording, TrackOptions
from .selection import NO_PERSON, PAST_BY_ONE, PAST_END, Filters, Selection, select, too_many
from .tree import move_into_tree, staging_folder
from .videos import ImageFolder, VideoFile, open_source

JPEG: dict[str, Any] = {'format': 'JPEG', 'quality': 95, 'subsampling': 0}


@dataclass(frozen=True)
class CroppingJob:
    """A video to make tracklets of.

    Attributes:
        video: a file, or a folder of images.
        tracks: file or folder that the tracker wrote.
        format: of the tracks, a name of ``FORMATS``.
        camera: its name.
        output: the tree.
        start: when the video begins, with an offset.
        fps: frames a second, in place of the times in the file.
        options, filters: of the reader and of the selection.
        split: of the dataset ``tracklets`` that they belong to.
        persons: track → name.
        replace: remove earlier tracklets of this video and camera first.
    """

    video: Path
    tracks: Path
    format: str
    camera: str
    output: Path
    start: datetime.datetime | None = None
    fps: float | None = None
    options: TrackOptions = TrackOptions()
    filters: Filters = Filters()
    split: str = 'gallery'
    persons: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False


@dataclass
class Made:
    """The result of a job."""

    entries: list[ManifestEntry]
    selection: Selection
    frames: int  # that were decoded

    def lines(self) -> list[str]:
        """Describe for the console what was kept, what was left out, and why."""
        chosen, first = self.selection, self.entries[0]
        crops = sum(len(entry.frames) for entry in self.entries)
        lines = [
            f'{first.source}, camera {first.camera}: {counted(len(self.entries), "tracklet")} with '
            f'{counted(crops, "crop")}, of {counted(chosen.total_tracks, "track")} with '
            f'{counted(chosen.total_boxes, "box", "boxes")}'
        ]
        if chosen.left_out:
            lines.append(f'  boxes left out: {reasons(chosen.left_out)}')
        if chosen.tracks_left_out:
            lines.append(f'  tracks left out: {reasons(chosen.tracks_left_out)}')
        return lines


def make_tracklets(job: CroppingJob) -> Made:
    """Decode a video once, save the crops, and add the tracklets to the manifest.

    The manifest is written last. A call that ends earlier leaves no line of this video, and the
    next call replaces its folders.

    Raises:
        BadVideo: a frame cannot be decoded.
        InputError: the tracks are invalid; the tree already has tracklets of this video and
            camera; it cannot be written.
    """
    source = open_source(job.video, job.fps)
    key = (job.camera, source.recording.name)
    if not job.replace and any(entry.video == key for entry in read_manifest(job.output)):
        raise InputError(
            f'{job.output}: already has tracklets of {key[1]} at camera {key[0]}; --replace '
            'replaces them'
        )
    boxes = read_tracks(job.tracks, job.format, source.recording, job.options)
    if job.split == 'train':
        named = np.array([track in job.persons for track in boxes.track_ids])
        boxes = boxes.only(named[boxes.tracks], NO_PERSON)
    selection = select(job.tracks, boxes, source.recording, job.filters)
    with write_errors(job.output):
        job.output.mkdir(parents=True, exist_ok=True)
    with staging_folder(job.output) as folder:
        times, decoded = save_crops(source, selection, folder)
        selection = _without_past(job, source, selection, times, decoded)
        entries = _entries(job, source, selection, times)
        places = sorted(set(selection.boxes.tracks.tolist()))  # in the order of the entries
        move_into_tree(job.output, key, entries, [folder / str(place) for place in places])
    return Made(entries, selection, decoded)


def save_crops(
    source: VideoFile | ImageFolder, selection: Selection, folder: Path
) -> tuple[dict[int, float], int]:
    """Write ``<folder>/<place of the track>/<frame>.jpg`` for every crop, in one forward pass.

    Returns:
        Seconds of each frame that has crops, and how many frames were decoded.
    """
    frames = selection.boxes.frames
    numbers, firsts = np.unique(frames, return_index=True)
    ends = [*firsts[1:].tolist(), len(frames)]
    rows_of = dict(
        zip(numbers.tolist(), map(range, firsts.tolist(), ends), strict=True)
    )  # the crops are in the order of their frames
    times: dict[int, float] = {}
    decoded = 0
    for place in set(selection.boxes.tracks.tolist()):
        (folder / str(place)).mkdir()
    name = source.recording.name
    progress = tqdm(
        source.frames(),
        desc=name,
        total=int(numbers[-1]) + 1,
        unit='frame',
        leave=False,
        disable=None,
    )
    with progress:
        for frame in progress:
            decoded += 1
            if frame.number in rows_of:
                times[frame.number] = frame.seconds
                pixels = frame.pixels()
                for row in rows_of[frame.number]:
                    left, top, right, bottom = selection.crops[row].tolist()
                    crop = np.ascontiguousarray(pixels[top:bottom, left:right])
                    place = int(selection.boxes.tracks[row])
                    Image.fromarray(crop).save(
                        folder / str(place) / crop_name(frame.number), **JPEG
                    )
            if frame.number >= numbers[-1]:
                break
    return times, decoded


def crop_name(frame: int) -> str:
    """Return the file name of a crop."""
    return f'{frame:08}.jpg'


def _without_past(
    job: CroppingJob,
    source: VideoFile | ImageFolder,
    selection: Selection,
    times: Mapping[int, float],
    decoded: int,
) -> Selection:
    """Remove boxes past the last frame from the selection; raise InputError if there are many."""
    there = np.isin(selection.boxes.frames, list(times))
    missing = int((~there).sum())
    one_past = int(selection.boxes.frames.max()) == decoded
    if too_many(missing, len(there)) or missing == len(there):
        raise InputError(
            f'{job.tracks}: {missing:,} of {len(there):,} boxes are past the last frame of '
            f'{source.recording.name}, which has {decoded:,}; '
            + (
                'all by one: the first frame of the file has another number than --first-frame'
                if one_past
                else 'the file belongs to another video, or the video is truncated'
            )
        )
    return Selection(
        selection.boxes.only(there, PAST_BY_ONE if one_past else PAST_END),
        selection.crops[there],
        selection.total_boxes,
        selection.total_tracks,
        selection.tracks_left_out,
    )


def _entries(
    job: CroppingJob,
    source: VideoFile | ImageFolder,
    selection: Selection,
    times: Mapping[int, float],
) -> list[ManifestEntry]:
    boxes = selection.boxes
    order = np.argsort(boxes.tracks, kind='stable')
    groups = np.split(order, np.flatnonzero(np.diff(boxes.tracks[order])) + 1)
    return [_entry(job, source.recording, boxes, rows, times) for rows in groups]


def _entry(
    job: CroppingJob,
    recording: Recording,
    boxes: Boxes,
    rows: NDArray[np.int64],
    times: Mapping[int, float],
) -> ManifestEntry:
    track = boxes.track_ids[boxes.tracks[rows[0]]]
    person = job.persons.get(track, UNKNOWN_PERSON)
    frames = boxes.frames[rows].tolist()
    seconds = [round(times[frame], 6) for frame in frames]
    confidence = [
        None if np.isnan(one) else round(one, 6) for one in boxes.confidence[rows].tolist()
    ]
    return ManifestEntry(
        tracklet='/'.join((job.split, person, job.camera, f'{recording.stem}-{track}')),
        camera=job.camera,
        source=recording.name,
        track=track,
        person=person,
        start=clock_time(job.start, seconds[0]),
        end=clock_time(job.start, seconds[-1]),
        frames=frames,
        times=seconds,
        boxes=boxes.corners[rows].round(2).tolist(),
        confidence=None if confidence == [None] * len(rows) else confidence,
    )
