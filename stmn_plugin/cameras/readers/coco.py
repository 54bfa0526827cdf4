"""COCO with tracks: TAO, COCO-VID and exports of labelling tools, a JSON file.

``images`` have ``video_id`` and a frame number (``frame_index``, in COCO-VID ``frame_id``),
``annotations`` a track (``track_id``, in COCO-VID ``instance_id``) and ``bbox``: x, y, width and
height. Tools number frames from 0 or from 1.
"""

import math
from pathlib import Path, PurePath
from typing import Any

from stmn_plugin.errors import InputError

from ..boxes import NO_TRACK, Boxes, BoxRows, real, whole
from .files import json_of
from .options import Recording, TrackOptions

FRAME_KEYS = ('frame_index', 'frame_id')
TRACK_KEYS = ('track_id', 'instance_id')
CROWD = 'a crowd, no person (iscrowd)'
NO_IMAGE = 'of an image that the file does not list'


def read_coco(path: Path, recording: Recording, options: TrackOptions) -> Boxes:
    """Read the boxes of one video of a JSON file.

    It is chosen by its name, with folders or without, or by its id, or is the only one.

    Raises:
        InputError: another format, no such video, several, or one of another size.
    """
    content = json_of(path)
    if not isinstance(content, dict) or not {'images', 'annotations'} <= content.keys():
        raise InputError(f'{path}: has no images and annotations; results alone name no frames')
    images, annotations, videos, categories = (
        _objects(path, content, key) for key in ('images', 'annotations', 'videos', 'categories')
    )
    video = _choose_video(path, images, videos, options.stream, recording)
    image_of = _by_id(images, f'{path}: image')
    frames = {
        key: _frame(path, image, recording, options)
        for key, image in image_of.items()
        if str(image.get('video_id', '')) == video
    }
    names = {
        key: str(category.get('name', ''))
        for key, category in _by_id(categories, f'{path}: category').items()
    }
    rows = BoxRows()
    for number, annotation in enumerate(annotations, 1):
        where = f'{path}: annotation {number}'
        image_id = _key(annotation, 'image_id', where)
        if image_id not in image_of:
            rows.left_out[NO_IMAGE] += 1
            continue
        frame = frames.get(image_id)
        if frame is None:  # of another video
            continue
        track = next((annotation[key] for key in TRACK_KEYS if key in annotation), None)
        box = annotation.get('bbox')
        if track is None or whole(track, 'the track', where) < 0:
            rows.left_out[NO_TRACK] += 1
        elif annotation.get('iscrowd'):
            rows.left_out[CROWD] += 1
        elif not isinstance(box, list) or len(box) != 4:
            raise InputError(f'{where}: bbox must be x, y, width, height, got {box!r:.60}')
        else:
            left, top, width, height = (real(side, 'bbox', where) for side in box)
            score = annotation.get('score')
            has_category = annotation.get('category_id') is not None
            category = _key(annotation, 'category_id', where) if has_category else ''
            rows.add(
                frame,
                str(whole(track, 'the track', where)),
                (left, top, left + width, top + height),
                math.nan if score is None else real(score, 'score', where),
                names.get(category) or str(category),
            )
    return rows.boxes(path)


def _by_id(items: list[dict[str, Any]], what: str) -> dict[int | str, dict[str, Any]]:
    """Return objects by their ids; raise InputError if two have one, as in files put together."""
    found: dict[int | str, dict[str, Any]] = {}
    for number, item in enumerate(items, 1):
        key = _key(item, 'id', f'{what} {number}')
        if found.setdefault(key, item) != item:
            raise InputError(f'{what} {number} has the id of another, {key}')
    return found


def _objects(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InputError(f'{path}: {key} must be a list of objects')
    return found


def _key(item: dict[str, Any], key: str, where: str) -> int | str:
    value = item.get(key)
    if not isinstance(value, int | str):
        raise InputError(f'{where} has no {key}')
    return value


def _choose_video(
    path: Path,
    images: list[dict[str, Any]],
    videos: list[dict[str, Any]],
    stream: str,
    recording: Recording,
) -> str:
    """Return the video_id, as text, of the images of a recording."""
    ids = {str(image.get('video_id', '')) for image in images}
    known = [(str(v.get('name') or v.get('file_name') or ''), str(v.get('id', ''))) for v in videos]
    for name in [stream] if stream else [recording.name, recording.stem]:
        for called in (
            {key for path_of, key in known if path_of == name},
            {key for path_of, key in known if PurePath(path_of).name == name},
            {name},
        ):
            fitting = called & ids - {''}
            if len(fitting) > 1:
                same = ', '.join(
                    sorted(f'{one} (id {key})' for one, key in known if key in fitting)
                )
                raise InputError(
                    f'{path}: several videos are called {name}: {same}; --stream takes a whole '
                    'name or an id'
                )
            if fitting:
                return fitting.pop()
    if len(ids) == 1 and not stream and not known:
        return ids.pop()
    names = ', '.join(sorted({one for one, _ in known} or ids)[:5])
    raise InputError(
        f'{path}: has no video {stream or recording.name}; --stream NAME chooses '
        f'among {names or "none"}'
    )


def _frame(path: Path, image: dict[str, Any], recording: Recording, options: TrackOptions) -> int:
    where = f'{path}: image {image.get("id")}'
    size = image.get('width'), image.get('height')
    own = recording.width, recording.height
    if options.picture is None and None not in size and size != own:
        raise InputError(
            f'{where} has {size[0]} x {size[1]} pixels, {recording.name} has {own[0]} x {own[1]} '
            '(if it was scaled, give --picture-size)'
        )
    key = next((key for key in FRAME_KEYS if key in image), None)
    if key is None:
        raise InputError(f'{where} has no frame number: neither {" nor ".join(FRAME_KEYS)}')
    return whole(image[key], key, where)
