"""Read and write ``TREE/manifest.jsonl``: a JSON object per tracklet, each on a line."""

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from stmn_plugin.config.rules import Moment
from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.whole_files import whole_file

NAME = 'manifest.jsonl'
MOMENT = Moment()


@dataclass(frozen=True)
class ManifestEntry:
    """A tracklet.

    Attributes:
        tracklet: its folder, relative to the tree, with slashes.
        camera: name.
        source: file name of the video, or name of the folder of images.
        track: the tracker's id.
        person: name, or ``unknown``.
        start, end: of the first and last frame, ISO 8601 with offset; None if the video's is
            unknown.
        frames: numbers in the video, from 0.
        times: seconds in the video.
        boxes: left, top, right, bottom in pixels of the upright picture, within it.
        confidence: of each box; None if the tracker gave none.
    """

    tracklet: str
    camera: str
    source: str
    track: str
    person: str
    start: str | None
    end: str | None
    frames: Sequence[int]
    times: Sequence[float]
    boxes: Sequence[Sequence[float]]
    confidence: Sequence[float | None] | None

    @property
    def video(self) -> tuple[str, str]:
        """Camera and source; the tracklets of both are made together."""
        return self.camera, self.source


def read_manifest(tree: Path, name: str = NAME) -> list[ManifestEntry]:
    """Read the tracklets of a tree; [] without a manifest.

    Args:
        tree: the tree.
        name: of a file in it with such lines.

    Raises:
        InputError: the file cannot be read, or a line is invalid; names the line.
    """
    path = tree / name
    entries: dict[PurePosixPath, ManifestEntry] = {}
    try:
        with open_regular(path, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                try:
                    entry = _parsed(line)
                except (ValueError, TypeError, RecursionError) as error:
                    raise InputError(
                        f'{path}:{number}: not a line of a manifest: {error}'
                    ) from error
                if entries.setdefault(PurePosixPath(entry.tracklet), entry) is not entry:
                    raise InputError(f'{path}:{number}: {entry.tracklet} is listed twice')
    except (FileNotFoundError, NotADirectoryError):
        return []
    except UnicodeDecodeError as error:
        raise InputError(f'cannot read {path}: it is not UTF-8 text') from error
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    return list(entries.values())


def _parsed(line: str) -> ManifestEntry:
    """Parse a line; raise ValueError, TypeError or RecursionError if it is invalid."""
    entry = ManifestEntry(**json.loads(line))
    for name in ('tracklet', 'camera', 'source', 'track', 'person'):
        if not isinstance(getattr(entry, name), str):
            raise ValueError(f'{name} must be text, got {getattr(entry, name)!r:.80}')
    parts = PurePosixPath(entry.tracklet).parts
    if not parts or '..' in parts or parts[0].startswith('/'):  # may be removed
        raise ValueError(f'tracklet must be a folder within the tree, got {entry.tracklet!r:.80}')
    for name, time in (('start', entry.start), ('end', entry.end)):
        if time is not None and MOMENT.read(time) is None:
            raise ValueError(f'{name} must be {MOMENT}, got {time!r:.80}')
    if (entry.start is None) != (entry.end is None):
        raise ValueError('start and end must both be given, or neither')
    lists = entry.frames, entry.times, entry.boxes, entry.confidence or entry.frames
    counts = {len(values) if isinstance(values, list) else 0 for values in lists}
    if 0 in counts or len(counts) > 1:
        raise ValueError('frames, times, boxes and confidence must be lists of one length')
    return entry


def write_manifest(tree: Path, entries: Iterable[ManifestEntry], name: str = NAME) -> Path:
    """Write the whole manifest, or another file with such lines, and return its path."""
    path = tree / name
    with whole_file(path) as file:
        for entry in entries:
            file.write(json.dumps(asdict(entry)).encode() + b'\n')
    return path


def clock_time(start: datetime.datetime | None, seconds: float) -> str | None:
    """Return the time of day of a moment in a video, ISO 8601; None if its start is unknown.

    Raises:
        InputError: it is past the year 9999.

    >>> begin = datetime.datetime.fromisoformat('2026-03-01T08:00:00+01:00')
    >>> clock_time(begin, 2.25)
    '2026-03-01T08:00:02.250+01:00'
    """
    if start is None:
        return None
    try:
        moment = start + datetime.timedelta(seconds=seconds)
    except OverflowError as error:
        raise InputError(f'{seconds:g} s after {start} is past the year 9999') from error
    return moment.isoformat(timespec='milliseconds')
