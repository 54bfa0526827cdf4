"""``TREE/manifest.jsonl``: what is known of every tracklet, one JSON object a line."""

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from stmn_plugin.errors import InputError
from stmn_plugin.input_files import open_regular
from stmn_plugin.whole_files import whole_file

NAME = 'manifest.jsonl'


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
        """Camera and source: what is made in one go."""
        return self.camera, self.source


def read_manifest(tree: Path) -> list[ManifestEntry]:
    """Read the tracklets of a tree; [] without a manifest.

    Raises:
        InputError: it cannot be read; names the line that is none of a manifest.
    """
    path = tree / NAME
    if not path.exists():
        return []
    entries = []
    try:
        with open_regular(path, encoding='utf-8') as file:
            for number, line in enumerate(file, 1):
                try:
                    entry = ManifestEntry(**json.loads(line))
                    parts = PurePosixPath(entry.tracklet).parts
                except (ValueError, TypeError) as error:
                    raise InputError(f'{path}:{number}: no line of a manifest: {error}') from error
                if not parts or '..' in parts or parts[0].startswith('/'):  # may be removed
                    raise InputError(
                        f'{path}:{number}: tracklet must be a folder within the tree, got '
                        f'{entry.tracklet!r:.80}'
                    )
                entries.append(entry)
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror}') from error
    return entries


def write_manifest(tree: Path, entries: Iterable[ManifestEntry]) -> Path:
    """Write the manifest, whole, and return its path."""
    path = tree / NAME
    with whole_file(path) as file:
        for entry in entries:
            file.write(json.dumps(asdict(entry)).encode() + b'\n')
    return path


def clock_time(start: datetime.datetime | None, seconds: float) -> str | None:
    """Return the time of day of a moment in a video, ISO 8601; None if its start is unknown.

    >>> begin = datetime.datetime.fromisoformat('2026-03-01T08:00:00+01:00')
    >>> clock_time(begin, 2.25)
    '2026-03-01T08:00:02.250+01:00'
    """
    if start is None:
        return None
    return (start + datetime.timedelta(seconds=seconds)).isoformat(timespec='milliseconds')
